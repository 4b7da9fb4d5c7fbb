//! Filters over standard input, as in a shell: `pipe cat`, `pipe grep TEXT`, `pipe wc`, `pipe rev`.
//!
//! Lines leave as soon as they are done, so that a reader sees how far the program is.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

fn main() -> io::Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["cat"] => each_line(|line| Some(line.to_vec())),
        ["grep", text] => each_line(|line| contains(line, text.as_bytes()).then(|| line.to_vec())),
        ["rev"] => each_line(|line| Some(String::from_utf8_lossy(line).chars().rev().collect::<String>().into_bytes())),
        ["wc"] => count(),
        _ => {
            eprintln!("usage: pipe cat | pipe grep TEXT | pipe wc | pipe rev");
            Ok(ExitCode::from(2))
        }
    }
}

/// Writes what `filter` makes of each line. Success if there was at least one, as grep has it.
fn each_line(filter: impl Fn(&[u8]) -> Option<Vec<u8>>) -> io::Result<ExitCode> {
    let (mut input, mut out) = (io::stdin().lock(), io::stdout().lock());
    let (mut line, mut written) = (Vec::new(), false);
    while input.read_until(b'\n', &mut line)? > 0 {
        let ended = line.pop_if(|byte| *byte == b'\n').is_some();
        if let Some(mut result) = filter(&line) {
            if ended {
                result.push(b'\n');
            }
            out.write_all(&result)?;
            out.flush()?;
            written = true;
        }
        line.clear();
    }
    Ok(if written { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn contains(line: &[u8], text: &[u8]) -> bool {
    text.is_empty() || line.windows(text.len()).any(|window| window == text)
}

fn count() -> io::Result<ExitCode> {
    let mut input = io::stdin().lock();
    let (mut lines, mut words, mut bytes) = (0_u64, 0_u64, 0_u64);
    let mut inside = false;
    loop {
        let chunk = input.fill_buf()?;
        if chunk.is_empty() {
            break;
        }
        for byte in chunk {
            lines += u64::from(*byte == b'\n');
            let space = byte.is_ascii_whitespace();
            words += u64::from(!space && !inside);
            inside = !space;
        }
        let length = chunk.len();
        bytes += length as u64;
        input.consume(length);
    }
    println!("{lines} {words} {bytes}");
    Ok(ExitCode::SUCCESS)
}
