//! A session in use: one half for a thread that reads, one for a thread that writes. Both use the connection's keys
//! under a lock, and neither holds the lock while it waits for the stream.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dunlin_base::Digest;
use rustls::Connection;

use crate::error::Error;
use crate::socket::Socket;

/// Bytes that are read from the stream at once.
const READING: usize = 256 * 1024;
/// Bytes that are encrypted at once.
const WRITING: usize = 256 * 1024;

/// An encrypted stream to a machine of a known provider.
#[derive(Debug)]
pub struct Session {
    /// What comes.
    pub reader: Reader,
    /// What goes.
    pub writer: Writer,
    /// Ends both at once.
    pub closer: Closer,
    /// The provider of the other side, by its certificate.
    pub provider: String,
    /// A secret that only the two ends of this session can derive, and that no other session has.
    pub exporter: [u8; 32],
    /// SHA-256 of the other side's SubjectPublicKeyInfo.
    pub peer_spki: Digest,
    /// SHA-256 of the own one.
    pub own_spki: Digest,
}

struct Shared {
    connection: Mutex<Connection>,
    socket: Socket,
}

impl Shared {
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    pub(crate) fn new(
        mut connection: Connection,
        socket: Socket,
        early: Vec<u8>,
        provider: String,
        exporter: [u8; 32],
        peer_spki: Digest,
        own_spki: Digest,
    ) -> Self {
        // The writer empties the connection's buffer whenever it has filled it.
        connection.set_buffer_limit(None);
        let shared = Arc::new(Shared { connection: Mutex::new(connection), socket });
        let end = early.len();
        Self {
            reader: Reader { shared: shared.clone(), bytes: early, start: 0, end },
            writer: Writer { shared: shared.clone(), out: Vec::new(), failed: false },
            closer: Closer(shared),
            provider,
            exporter,
            peer_spki,
            own_spki,
        }
    }
}

impl Session {
    /// Reading and writing fail when nothing moves for so long; `None`: they wait.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn set_limit(&self, limit: Option<std::time::Duration>) -> io::Result<()> {
        self.closer.0.socket.set_limit(limit)
    }
}

/// What comes. The end of the other side's stream is the end of this one only if the other side said so; a stream
/// that was cut is an error.
pub struct Reader {
    shared: Arc<Shared>,
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Reader {
    /// Decrypts what was read from the stream, as far as `buffer` has room. `None` if more must be read for that.
    fn decrypt(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        let mut connection = self.shared.connection();
        let mut filled = 0;
        loop {
            let room = buffer.get_mut(filled..).unwrap_or_default();
            if room.is_empty() {
                return Ok(Some(filled));
            }
            match connection.reader().read(room) {
                // The other side said that nothing more comes.
                Ok(0) => return Ok(Some(filled)),
                Ok(read) => {
                    filled += read;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Error::Io(error)),
            }
            let mut left = self.bytes.get(self.start..self.end).unwrap_or_default();
            if left.is_empty() {
                return Ok((filled > 0).then_some(filled));
            }
            let taken = connection.read_tls(&mut left).map_err(Error::Io)?;
            self.start += taken;
            connection.process_new_packets().map_err(Error::of_tls)?;
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(read) = self.decrypt(buffer).map_err(Error::into_io)? {
                return Ok(read);
            }
            if self.bytes.len() < READING {
                self.bytes.resize(READING, 0);
            }
            self.start = 0;
            self.end = 0;
            self.end = self.shared.socket.read(&mut self.bytes)?;
            if self.end == 0 {
                return Err(Error::Cut.into_io());
            }
        }
    }
}

/// What goes. Everything that was written has left when the call returns.
pub struct Writer {
    shared: Arc<Shared>,
    out: Vec<u8>,
    failed: bool,
}

impl Writer {
    /// Says that nothing more comes from this side; the other direction stays.
    ///
    /// # Errors
    /// If the stream fails.
    pub fn finish(&mut self) -> io::Result<()> {
        self.shared.connection().send_close_notify();
        self.send(&[])?;
        self.shared.socket.shutdown(Shutdown::Write);
        Ok(())
    }

    fn send(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.failed {
            // A part of a record may have left: what follows could not be decrypted.
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut connection = self.shared.connection();
        connection.writer().write_all(piece)?;
        while connection.wants_write() {
            connection.write_tls(&mut self.out)?;
        }
        drop(connection);
        let sent = self.shared.socket.write_all(&self.out);
        self.out.clear();
        self.failed = sent.is_err();
        sent
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = bytes.get(..bytes.len().min(WRITING)).unwrap_or_default();
        self.send(piece)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Ends both directions at once, from any thread.
#[derive(Clone)]
pub struct Closer(Arc<Shared>);

impl Closer {
    /// Ends the stream. Whoever reads or writes returns with an error.
    pub fn close(&self) {
        self.0.socket.shutdown(Shutdown::Both);
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl fmt::Debug for Closer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closer").finish_non_exhaustive()
    }
}
