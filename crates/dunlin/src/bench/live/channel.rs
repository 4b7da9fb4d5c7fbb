//! The stream between the two places, and the baseline: the same bytes through the same kind of stream with nothing
//! else around them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use dunlin_handover::message::{ChannelGuard, Guard};
use dunlin_identity::{IdentityError, Issuer, PrivateKey};
use dunlin_keep::migrate::Stream;
use dunlin_transport::{Roots, TlsIdentity, accept, connect};

use crate::failure::{Exit, Failure, Result};

/// Which end of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

/// A stream, and what authenticates the frames on it.
pub(super) struct Session {
    pub(super) stream: Stream,
    pub(super) guard: Box<dyn Guard>,
}

/// How sessions are protected.
#[derive(Debug, Clone)]
pub(super) enum Security {
    /// Not at all.
    Plain,
    /// Mutual TLS 1.3, as between keeps.
    Tls { identity: Box<TlsIdentity>, roots: Roots },
}

const PROVIDER: &str = "bench.example";
/// For how long certificates hold.
const VALID: Duration = Duration::from_secs(86_400);

/// Who certifies both places to each other: certificate and key.
pub(super) fn authority() -> Result<(Vec<u8>, Vec<u8>)> {
    let key = PrivateKey::generate().map_err(uncertified())?;
    let provider = Issuer::provider(PROVIDER, key.clone(), VALID).map_err(uncertified())?;
    let certificate = provider.chain().first().cloned().unwrap_or_default();
    Ok((certificate, key.to_pkcs8().map_err(uncertified())?.to_vec()))
}

impl Security {
    /// Of a side that this authority certifies.
    pub(super) fn of(authority: &Option<(Vec<u8>, Vec<u8>)>) -> Result<Self> {
        let Some((certificate, key)) = authority else { return Ok(Self::Plain) };
        let key = PrivateKey::from_pkcs8(key).map_err(uncertified())?;
        let provider = Issuer::new(key, vec![certificate.clone()]).map_err(uncertified())?;
        let (node, own) = (PrivateKey::generate(), PrivateKey::generate());
        let (node, own) = (node.map_err(uncertified())?, own.map_err(uncertified())?);
        let chain = provider.certify_node("place", node.public(), VALID).map_err(uncertified())?;
        let machine = Issuer::new(node, chain).map_err(uncertified())?;
        let chain = machine.certify_keep(own.public(), VALID).map_err(uncertified())?;
        let own = own.to_pkcs8().map_err(uncertified())?.to_vec();
        let identity = Box::new(TlsIdentity::new(chain, own).map_err(untrusted())?);
        let mut roots = Roots::new();
        roots.add(PROVIDER, certificate).map_err(untrusted())?;
        Ok(Self::Tls { identity, roots })
    }

    /// Opens one end of a session over a connection.
    pub(super) fn open(&self, stream: TcpStream, end: End) -> Result<Session> {
        let stream = match self {
            Self::Plain => Stream::tcp(stream).map_err(failed())?,
            Self::Tls { identity, roots } => {
                let session = match end {
                    End::Source => connect(stream, identity, roots, None),
                    End::Destination => accept(stream, identity, roots, None),
                };
                let dunlin_transport::Session { reader, writer, closer, .. } = session.map_err(untrusted())?;
                let close = Box::new(move || closer.close());
                Stream { reader: Box::new(reader), writer: Box::new(writer), close }
            }
        };
        Ok(Session { stream, guard: Box::new(ChannelGuard) })
    }
}

fn uncertified() -> impl FnOnce(IdentityError) -> Failure {
    Failure::because(Exit::Software, "a place cannot be certified")
}

fn untrusted() -> impl FnOnce(dunlin_transport::Error) -> Failure {
    Failure::because(Exit::Unavailable, "an encrypted stream between two places cannot be opened")
}

/// What the raw stream was found to carry, in bytes a second: `bytes` from one thread to another, in the pieces of
/// which moves are made. The bytes lie in memory and are only looked at where they arrive.
pub(super) fn raw(security: &Security, bytes: u64) -> Result<f64> {
    /// Bytes of pages in one message of a move.
    const PIECE: usize = 1 << 20;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(failed())?;
    let address = listener.local_addr().map_err(failed())?;
    let asking = security.clone();
    let sender = std::thread::spawn(move || -> Result<()> {
        let mut session = asking.open(TcpStream::connect(address).map_err(failed())?, End::Source)?;
        let piece: Vec<u8> = (0..PIECE as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut left = bytes;
        while left > 0 {
            let length = piece.len().min(usize::try_from(left).unwrap_or(PIECE));
            session.stream.writer.write_all(&piece[..length]).map_err(failed())?;
            left -= length as u64;
        }
        session.stream.writer.flush().map_err(failed())?;
        // The other end closes once it has everything.
        let _closed = session.stream.reader.read(&mut [0]);
        Ok(())
    });
    let (stream, _) = listener.accept().map_err(failed())?;
    let mut session = security.open(stream, End::Destination)?;
    let mut buffer = vec![0; PIECE];
    let mut left = bytes;
    let start = Instant::now();
    while left > 0 {
        let length = buffer.len().min(usize::try_from(left).unwrap_or(PIECE));
        session.stream.reader.read_exact(&mut buffer[..length]).map_err(failed())?;
        left -= length as u64;
    }
    let took = start.elapsed();
    (session.stream.close)();
    drop(session);
    sender.join().map_err(|_| Failure::new(Exit::Software, "the raw stream's sender panicked"))??;
    Ok(bytes as f64 / took.as_secs_f64().max(1e-9))
}

fn failed() -> impl FnOnce(std::io::Error) -> Failure {
    Failure::because(Exit::Unavailable, "a stream between two places cannot be opened or used")
}
