//! Measures reading and writing files: `files DIR MIB` prints, for each kind of access, how many nanoseconds the fastest
//! of some rounds took, and a checksum that does not depend on the machine.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::time::Instant;

const ROUNDS: u32 = 5;

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [directory, size] = &args[..] else { return Err(io::Error::other("usage: files DIR MIB")) };
    let size = size.parse::<usize>().map_err(io::Error::other)? << 20;
    let path = format!("{directory}/measured");
    for chunk in [4 << 10, 64 << 10] {
        let data: Vec<u8> = (0..chunk).map(|at| (at * 31 + at / 256) as u8).collect();
        measure(&format!("write-{}k", chunk >> 10), || {
            let mut file = File::create(&path)?;
            for _ in 0..size / chunk {
                file.write_all(&data)?;
            }
            Ok(size as u64)
        })?;
        measure(&format!("overwrite-{}k", chunk >> 10), || {
            let mut file = OpenOptions::new().write(true).open(&path)?;
            for _ in 0..size / chunk {
                file.write_all(&data)?;
            }
            Ok(size as u64)
        })?;
        measure(&format!("read-{}k", chunk >> 10), || {
            let (mut file, mut buffer, mut sum) = (File::open(&path)?, vec![0; chunk], 0);
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(sum),
                    length => sum += u64::from(buffer[length - 1]),
                }
            }
        })?;
    }
    measure("vectored", || {
        let (mut file, mut sum) = (OpenOptions::new().read(true).write(true).open(&path)?, 0);
        let (mut one, mut two) = ([1; 1000], [2; 3096]);
        for _ in 0..size / 8192 {
            sum += file.write_vectored(&[IoSlice::new(&one), IoSlice::new(&two)])? as u64;
            sum += file.read_vectored(&mut [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)])? as u64;
        }
        Ok(u64::from(sum > 0))
    })?;
    measure("random-4k", || {
        let (mut file, mut buffer, mut at, mut sum) = (File::open(&path)?, [0; 4096], 1_u64, 0);
        for _ in 0..size / 4096 {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            file.seek(SeekFrom::Start((at >> 33) % (size as u64 - 4096)))?;
            file.read_exact(&mut buffer)?;
            sum += u64::from(buffer[0]);
        }
        Ok(sum)
    })?;
    std::fs::remove_file(&path)
}

fn measure(name: &str, mut run: impl FnMut() -> io::Result<u64>) -> io::Result<()> {
    let (mut best, mut sum) = (u128::MAX, 0);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        sum = run()?;
        best = best.min(start.elapsed().as_nanos());
    }
    println!("{name} {best} {sum}");
    Ok(())
}
