//! Holds memory, changes it at a chosen pace and answers questions meanwhile: `dirtier MEBIBYTES PAGES_PER_SECOND`.
//!
//! Memory is filled with numbers that do not compress. A question is eight bytes on standard input; its answer, on
//! standard output, is the same eight bytes and how many questions were answered before, so that a client notices a
//! question that was lost or answered twice. At the end of its input the program checks that memory holds what it
//! wrote, and prints how many pages it changed.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Words of 64 bits in a page.
const PAGE: usize = 4096 / 8;

/// What a late program makes up for at most: a pause is not followed by a burst.
const BACKLOG: Duration = Duration::from_millis(5);

fn main() -> io::Result<()> {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let [mebibytes, rate] = numbers[..] else {
        eprintln!("usage: dirtier MEBIBYTES PAGES_PER_SECOND");
        std::process::exit(2);
    };
    let mut memory = Memory::new(mebibytes as usize * 256);
    let mut last = Instant::now();
    let mut owed = 0.0;
    let (mut input, mut out) = (io::stdin().lock(), io::stdout().lock());
    let mut questions = Vec::new();
    let mut answered = 0_u64;
    println!("ready");
    loop {
        let asked = wait(input.as_raw_fd(), if rate > 0 { 1 } else { -1 })?;
        let now = Instant::now();
        owed += now.duration_since(last).min(BACKLOG).as_secs_f64() * rate as f64;
        last = now;
        memory.dirty(owed as u64);
        owed = owed.fract();
        if !asked {
            continue;
        }
        let mut chunk = [0; 4096];
        let length = input.read(&mut chunk)?;
        if length == 0 {
            break;
        }
        questions.extend_from_slice(&chunk[..length]);
        let whole = questions.len() / 8 * 8;
        for question in questions.drain(..whole).collect::<Vec<_>>().chunks(8) {
            out.write_all(question)?;
            out.write_all(&answered.to_le_bytes())?;
            answered += 1;
        }
        out.flush()?;
    }
    println!("{} pages changed, {} damaged", memory.changes, memory.damaged());
    Ok(())
}

/// Pages of numbers: each has its own numbers, and in its first word how often it was changed.
struct Memory {
    words: Vec<u64>,
    changes: u64,
    at: usize,
}

impl Memory {
    fn new(pages: usize) -> Self {
        let words = (0..pages * PAGE).map(|index| if index % PAGE == 0 { 0 } else { mixed(index as u64) }).collect();
        Self { words, changes: 0, at: 0 }
    }

    /// Changes pages that lie apart, one after the other, all of them before any for the second time.
    fn dirty(&mut self, count: u64) {
        let pages = self.words.len() / PAGE;
        if pages == 0 {
            return;
        }
        for _ in 0..count {
            // A prime larger than any number of pages here: every page has its turn.
            self.at = (self.at + 15_485_863) % pages;
            self.words[self.at * PAGE] += 1;
            self.changes += 1;
        }
    }

    /// Pages that do not hold what was written to them, and one more if changes are missing.
    fn damaged(&self) -> usize {
        let wrong = self.words.chunks(PAGE).enumerate().filter(|(number, page)| {
            let first = number * PAGE;
            page.iter().enumerate().skip(1).any(|(index, word)| *word != mixed((first + index) as u64))
        });
        let changes: u64 = self.words.chunks(PAGE).map(|page| page[0]).sum();
        wrong.count() + usize::from(changes != self.changes)
    }
}

/// The output function of SplitMix64.
fn mixed(index: u64) -> u64 {
    let mut bits = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Waits until there is something to read, at most this many milliseconds; for ever if negative.
fn wait(fd: i32, milliseconds: i32) -> io::Result<bool> {
    let mut polled = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
    // SAFETY: the pointer and the length are those of one live array of pollfd.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), 1, milliseconds) };
    match ready {
        0.. => Ok(ready > 0),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            error => Err(error),
        },
    }
}
