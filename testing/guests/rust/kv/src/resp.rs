//! The Redis protocol: commands in, replies out. Commands come as arrays of strings or as one plain line.

use std::fmt::Display;
use std::io::Write;

/// No string of a command may be longer.
const MAX_STRING: usize = 64 << 20;
/// No line of a command may be longer.
const MAX_LINE: usize = 64 << 10;
/// No command may have more parts.
const MAX_PARTS: usize = 1 << 20;

pub enum Reply {
    Array(Vec<Reply>),
    Bytes(Vec<u8>),
    Error(String),
    Integer(i64),
    Nil,
    Simple(&'static str),
}

impl Reply {
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Array(replies) => {
                head(out, b'*', replies.len());
                for reply in replies {
                    reply.write(out);
                }
            }
            Self::Bytes(bytes) => {
                head(out, b'$', bytes.len());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Self::Error(text) => head(out, b'-', text),
            Self::Integer(value) => head(out, b':', value),
            Self::Nil => out.extend_from_slice(b"$-1\r\n"),
            Self::Simple(text) => head(out, b'+', text),
        }
    }
}

fn head(out: &mut Vec<u8>, kind: u8, rest: impl Display) {
    out.push(kind);
    // A vector takes everything.
    _ = write!(out, "{rest}\r\n");
}

/// The parts of a command, and its length in bytes.
type Command<'a> = (Vec<&'a [u8]>, usize);

/// Finds the command at the front of `input`; nothing if it is not all there yet.
///
/// An error is the peer's mistake, after which the connection cannot go on.
pub fn command(input: &[u8]) -> Result<Option<Command<'_>>, String> {
    let Some((line, mut at)) = line(input)? else { return Ok(None) };
    if line.first() != Some(&b'*') {
        let parts = line.split(u8::is_ascii_whitespace).filter(|part| !part.is_empty());
        return Ok(Some((parts.collect(), at)));
    }
    let count = number(&line[1..], MAX_PARTS)?;
    let mut parts = Vec::new();
    for _ in 0..count {
        let Some((line, used)) = self::line(&input[at..])? else { return Ok(None) };
        if line.first() != Some(&b'$') {
            return Err(format!("expected '$', got '{}'", line.escape_ascii()));
        }
        let length = number(&line[1..], MAX_STRING)?;
        at += used;
        let Some(bytes) = input[at..].get(..length + 2) else { return Ok(None) };
        parts.push(&bytes[..length]);
        at += length + 2;
    }
    Ok(Some((parts, at)))
}

/// The first line without its end, and its length with it.
fn line(input: &[u8]) -> Result<Option<(&[u8], usize)>, String> {
    let Some(end) = input.iter().take(MAX_LINE).position(|byte| *byte == b'\n') else {
        return if input.len() < MAX_LINE { Ok(None) } else { Err("too big inline request".to_owned()) };
    };
    let line = &input[..end];
    Ok(Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1)))
}

fn number(digits: &[u8], most: usize) -> Result<usize, String> {
    let value = str::from_utf8(digits).ok().and_then(|digits| digits.parse::<usize>().ok());
    value.filter(|value| *value <= most).ok_or_else(|| format!("invalid length '{}'", digits.escape_ascii()))
}
