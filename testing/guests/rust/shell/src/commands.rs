//! The commands: arguments and input in, output out.

use std::time::{Duration, Instant, SystemTime};
use std::{fs, io, thread};

/// Runs a command. False if it did not find what it looked for.
pub fn run(args: &[&str], input: &[u8], out: &mut Vec<u8>) -> io::Result<bool> {
    let text = || String::from_utf8_lossy(input).into_owned();
    let mut say = |line: &str| {
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    };
    match *args {
        ["echo", ..] => say(&args[1..].join(" ")),
        ["cat"] => out.extend_from_slice(input),
        ["cat", ref files @ ..] => {
            for file in files {
                out.extend(fs::read(file)?);
            }
        }
        ["grep", word] => {
            let found: Vec<String> = text().lines().filter(|line| line.contains(word)).map(str::to_owned).collect();
            found.iter().for_each(|line| say(line));
            return Ok(!found.is_empty());
        }
        ["head", count] => text().lines().take(number(count)? as usize).for_each(&mut say),
        ["tail", count] => {
            let text = text();
            let lines: Vec<&str> = text.lines().collect();
            lines.iter().skip(lines.len().saturating_sub(number(count)? as usize)).for_each(|line| say(line));
        }
        ["sort"] => {
            let text = text();
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            lines.into_iter().for_each(&mut say);
        }
        ["uniq"] => {
            let text = text();
            let mut lines: Vec<&str> = text.lines().collect();
            lines.dedup();
            lines.into_iter().for_each(&mut say);
        }
        ["rev"] => text().lines().for_each(|line| say(&line.chars().rev().collect::<String>())),
        ["wc"] => {
            let text = text();
            say(&format!("{} {} {}", text.lines().count(), text.split_whitespace().count(), input.len()));
        }
        ["sum"] => {
            let hash = input
                .iter()
                .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
            say(&format!("{hash:016x} {}", input.len()));
        }
        ["seq", first, last] => (number(first)?..=number(last)?).for_each(|value| say(&value.to_string())),
        ["sleep", millis] => thread::sleep(Duration::from_millis(number(millis)?)),
        // A clock that went back would be noticed here.
        ["elapsed"] => {
            let (start, date) = (Instant::now(), SystemTime::now());
            let known = date.duration_since(SystemTime::UNIX_EPOCH).is_ok();
            say(&format!("{} {known}", start.elapsed() < Duration::from_secs(3600)));
        }
        ["ls"] | ["ls", _] => {
            let mut names = Vec::new();
            for entry in fs::read_dir(args.get(1).copied().unwrap_or("."))? {
                let entry = entry?;
                let mark = if entry.file_type()?.is_dir() { "/" } else { "" };
                names.push(format!("{}{mark}", entry.file_name().to_string_lossy()));
            }
            names.sort_unstable();
            names.iter().for_each(|name| say(name));
        }
        ["mkdir", name] => fs::create_dir(name)?,
        ["rmdir", name] => fs::remove_dir(name)?,
        ["rm", ref names @ ..] => names.iter().try_for_each(fs::remove_file)?,
        ["mv", from, to] => fs::rename(from, to)?,
        ["cp", from, to] => fs::write(to, fs::read(from)?)?,
        ["ln", from, to] => fs::hard_link(from, to)?,
        ["truncate", name, size] => fs::OpenOptions::new().write(true).open(name)?.set_len(number(size)?)?,
        ["size", name] => say(&fs::metadata(name)?.len().to_string()),
        ["test", name] => return fs::exists(name),
        ["true"] => {}
        ["false"] => return Ok(false),
        _ => return Err(io::Error::other(format!("there is no such command: {}", args.join(" ")))),
    }
    Ok(true)
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|_| io::Error::other(format!("{text} is not a number")))
}
