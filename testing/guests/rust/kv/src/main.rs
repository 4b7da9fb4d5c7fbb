//! An in-memory key-value service that speaks the Redis protocol.
//!
//! `kv` serves TCP connections on the listening socket that it finds as file descriptor 3 (what WASI preview 1 and
//! socket activation both do). `kv --stdin` answers the commands on standard input instead, and ends with them.

mod expiries;
mod resp;
mod server;
mod store;
mod values;

use std::error::Error;
use std::io::{self, Read, Write};

use resp::Reply;
use store::Store;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        None => Ok(net::serve(&mut Store::default())?),
        Some("--stdin") => Ok(answer_stdin(&mut Store::default())?),
        Some(_) => Err("usage: kv | kv --stdin".into()),
    }
}

fn answer_stdin(store: &mut Store) -> io::Result<()> {
    let (mut source, mut sink) = (io::stdin().lock(), io::stdout().lock());
    let (mut input, mut output, mut chunk) = (Vec::new(), Vec::new(), [0; 4096]);
    loop {
        let length = source.read(&mut chunk)?;
        input.extend_from_slice(&chunk[..length]);
        let (used, open) = answer(store, &input, &mut output, usize::MAX);
        input.drain(..used);
        sink.write_all(&output)?;
        sink.flush()?;
        output.clear();
        if length == 0 || !open {
            return Ok(());
        }
    }
}

/// Carries out the commands that are complete in `input`, until there is `enough` output. Tells how much of the input
/// is used, and whether the connection stays open.
fn answer(store: &mut Store, input: &[u8], output: &mut Vec<u8>, enough: usize) -> (usize, bool) {
    let mut at = 0;
    while output.len() < enough {
        match resp::command(&input[at..]) {
            Ok(None) => break,
            Ok(Some((parts, used))) => {
                at += used;
                let Some(name) = parts.first() else { continue };
                if name.eq_ignore_ascii_case(b"QUIT") {
                    Reply::Simple("OK").write(output);
                    return (at, false);
                }
                store.run(&parts).write(output);
            }
            Err(mistake) => {
                Reply::Error(format!("ERR Protocol error: {mistake}")).write(output);
                return (input.len(), false);
            }
        }
    }
    (at, true)
}
