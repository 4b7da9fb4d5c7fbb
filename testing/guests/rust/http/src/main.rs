//! An HTTP/1.1 server on the listening socket that it finds as file descriptor 3: one thread, keep-alive, pipelining,
//! bodies of any size in both directions that are never held in memory as a whole.
//!
//! | request | response |
//! |---|---|
//! | `GET /` | `hello` and how many requests there were |
//! | `GET /bytes/N` | N bytes: the little-endian 64-bit words k * 0x9E3779B97F4A7C15 for k = 0, 1, … |
//! | `GET /chunks/N` | the same, with chunked transfer encoding |
//! | `POST /echo` | the body |
//! | `POST /sum` | length and FNV-1a of the body |
//! | `GET /clock` | milliseconds of the monotonic clock since the server began, and since the Unix epoch |
//!
//! `HEAD` works where `GET` does.

mod request;

use std::time::{Duration, Instant, SystemTime};

use net::{Peer, Service};
use request::{Body, Head, Method};

/// What is put into the output at once: more when that is sent.
const PIECE: usize = 64 << 10;

/// No head of a request may be longer.
const LONGEST_HEAD: usize = 16 << 10;

fn main() -> std::io::Result<()> {
    let mut server = Server { start: Instant::now(), requests: 0 };
    net::serve(&mut server)
}

struct Server {
    start: Instant,
    requests: u64,
}

/// What a connection is in the middle of.
#[derive(Default)]
enum Exchange {
    /// Nothing: the next bytes are a request's.
    #[default]
    Idle,
    /// A generated body: where it is, where it ends, whether in chunks.
    Generate { at: u64, end: u64, chunked: bool, close: bool },
    /// The request's body is sent back.
    Echo { body: Body, chunked: bool, close: bool },
    /// The request's body is summed.
    Sum { body: Body, length: u64, hash: u64, close: bool },
    /// The request's body is thrown away, then the connection goes on.
    Skip { body: Body, close: bool },
}

impl Service for Server {
    type State = Exchange;

    fn patience(&self) -> Option<Duration> {
        None
    }

    fn tick(&mut self) {}

    fn step(&mut self, peer: &mut Peer, exchange: &mut Exchange) {
        while peer.output.len() < PIECE && !peer.done {
            let before = (peer.input.len(), peer.output.len(), std::mem::discriminant(exchange));
            *exchange = self.advance(peer, std::mem::take(exchange));
            if before == (peer.input.len(), peer.output.len(), std::mem::discriminant(exchange)) {
                return;
            }
        }
    }
}

impl Server {
    fn advance(&mut self, peer: &mut Peer, exchange: Exchange) -> Exchange {
        match exchange {
            Exchange::Idle => self.begin(peer),
            Exchange::Generate { at, end, chunked, close } => {
                let length = (end - at).min(PIECE as u64);
                let out = peer.output.sink();
                if chunked {
                    out.extend_from_slice(format!("{length:x}\r\n").as_bytes());
                }
                pattern(at, length, out);
                if chunked {
                    // The last chunk is empty and is followed by an empty list of trailers.
                    out.extend_from_slice(b"\r\n");
                }
                match length {
                    0 => finish(peer, close),
                    _ if !chunked && at + length == end => finish(peer, close),
                    _ => Exchange::Generate { at: at + length, end, chunked, close },
                }
            }
            Exchange::Echo { mut body, chunked, close } => {
                let out = &mut peer.output;
                let taken = body.take(peer.input.bytes(), |bytes| {
                    if chunked {
                        out.sink().extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
                    }
                    out.sink().extend_from_slice(bytes);
                    if chunked {
                        out.sink().extend_from_slice(b"\r\n");
                    }
                });
                let Some(used) = taken else { return refuse(peer) };
                peer.input.consume(used);
                if !body.is_over() {
                    return Exchange::Echo { body, chunked, close };
                }
                if chunked {
                    peer.output.sink().extend_from_slice(b"0\r\n\r\n");
                }
                finish(peer, close)
            }
            Exchange::Sum { mut body, mut length, mut hash, close } => {
                let taken = body.take(peer.input.bytes(), |bytes| {
                    length += bytes.len() as u64;
                    for byte in bytes {
                        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
                    }
                });
                let Some(used) = taken else { return refuse(peer) };
                peer.input.consume(used);
                if !body.is_over() {
                    return Exchange::Sum { body, length, hash, close };
                }
                text(peer, "200 OK", &format!("{length} {hash:016x}\n"), Method::Post, close);
                finish(peer, close)
            }
            Exchange::Skip { mut body, close } => {
                let Some(used) = body.take(peer.input.bytes(), |_| {}) else { return refuse(peer) };
                peer.input.consume(used);
                if body.is_over() { finish(peer, close) } else { Exchange::Skip { body, close } }
            }
        }
    }

    /// Answers the request at the front of the input, if it is all there.
    fn begin(&mut self, peer: &mut Peer) -> Exchange {
        let (head, used) = match request::parse(peer.input.bytes()) {
            Ok(Some(request)) => request,
            Ok(None) if peer.input.len() > LONGEST_HEAD => return refuse(peer),
            Ok(None) => return Exchange::Idle,
            Err(()) => return refuse(peer),
        };
        peer.input.consume(used);
        self.requests += 1;
        let Head { method, path, body, close, expects } = head;
        if expects && matches!(method, Method::Post) {
            peer.output.sink().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let number = |prefix| path.strip_prefix(prefix).and_then(|rest: &str| rest.parse::<u64>().ok());
        match (method, path.as_str()) {
            (Method::Post, "/echo") => {
                let chunked = body.length().is_none();
                begin_body(peer, body.length(), close);
                return Exchange::Echo { body, chunked, close };
            }
            (Method::Post, "/sum") => return Exchange::Sum { body, length: 0, hash: 0xcbf2_9ce4_8422_2325, close },
            (Method::Post, _) => text(peer, "404 Not Found", "there is nothing here\n", method, close),
            (_, "/") => text(peer, "200 OK", &format!("hello {}\n", self.requests), method, close),
            (_, "/clock") => {
                let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let (running, real) = (self.start.elapsed().as_millis(), since(SystemTime::now()).as_millis());
                text(peer, "200 OK", &format!("{running} {real}\n"), method, close);
            }
            _ => match (number("/bytes/"), number("/chunks/")) {
                (Some(end), _) | (_, Some(end)) => {
                    let chunked = path.starts_with("/chunks/");
                    begin_body(peer, (!chunked).then_some(end), close);
                    if method == Method::Get && body.is_over() {
                        return Exchange::Generate { at: 0, end, chunked, close };
                    }
                }
                _ => text(peer, "404 Not Found", "there is nothing here\n", method, close),
            },
        }
        Exchange::Skip { body, close }
    }
}

/// The exchange is over.
fn finish(peer: &mut Peer, close: bool) -> Exchange {
    peer.done = close;
    Exchange::Idle
}

/// The peer does not speak HTTP.
fn refuse(peer: &mut Peer) -> Exchange {
    text(peer, "400 Bad Request", "this is not HTTP\n", Method::Get, true);
    finish(peer, true)
}

fn text(peer: &mut Peer, status: &str, text: &str, method: Method, close: bool) {
    head(peer, status, Some(text.len() as u64), close);
    if method != Method::Head {
        peer.output.sink().extend_from_slice(text.as_bytes());
    }
}

fn begin_body(peer: &mut Peer, length: Option<u64>, close: bool) {
    head(peer, "200 OK", length, close);
}

fn head(peer: &mut Peer, status: &str, length: Option<u64>, close: bool) {
    let length = match length {
        Some(length) => format!("Content-Length: {length}"),
        None => "Transfer-Encoding: chunked".to_owned(),
    };
    let close = if close { "Connection: close\r\n" } else { "" };
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\n{length}\r\n{close}\r\n");
    peer.output.sink().extend_from_slice(head.as_bytes());
}

/// Appends `length` bytes of the pattern from byte `at` on.
fn pattern(at: u64, length: u64, out: &mut Vec<u8>) {
    let word = |index: u64| index.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let (mut at, end) = (at, at + length);
    while at < end {
        let (index, skip) = (at / 8, (at % 8) as usize);
        let count = (8 - skip).min((end - at) as usize);
        out.extend_from_slice(&word(index)[skip..skip + count]);
        at += count as u64;
    }
}
