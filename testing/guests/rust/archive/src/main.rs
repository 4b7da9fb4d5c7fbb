//! A service with much on its disk: `archive DIR KIB LINES` fills a file with so many KiB that do not compress and are all
//! different, says so, and then makes a line of a log durable every 10 ms. After so many lines (0: never) it ends with the
//! checksum of what it reads back.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::time::Duration;

const BLOCK: usize = 1 << 10;

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [directory, size, lines] = &args[..] else { return Err(io::Error::other("usage: archive DIR KIB LINES")) };
    let number = |text: &String| text.parse::<u64>().map_err(io::Error::other);
    let (size, lines) = (number(size)?, number(lines)?);
    let (archive, log) = (format!("{directory}/archive"), format!("{directory}/log"));
    fill(&archive, size)?;
    println!("ready");
    let mut file = File::create(&log)?;
    let mut line = 0;
    while lines == 0 || line < lines {
        line += 1;
        writeln!(file, "line {line}")?;
        file.sync_data()?;
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("{} bytes, sum {:x}", fs::metadata(&archive)?.len(), checksum(&archive)?);
    println!("{} bytes, sum {:x}", fs::metadata(&log)?.len(), checksum(&log)?);
    Ok(())
}

fn fill(path: &str, size: u64) -> io::Result<()> {
    let mut file = io::BufWriter::with_capacity(64 << 10, File::create(path)?);
    let (mut block, mut noise) = ([0; BLOCK], 1_u64);
    for _ in 0..size {
        for word in block.as_chunks_mut().0 {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *word = noise.to_le_bytes();
        }
        file.write_all(&block)?;
    }
    file.into_inner()?.sync_all()
}

fn checksum(path: &str) -> io::Result<u64> {
    let bytes = fs::read(path)?;
    Ok(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)))
}
