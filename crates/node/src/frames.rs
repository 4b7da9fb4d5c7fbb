//! The bytes of a client's connection between two nodes: pieces with a header, so that ends and turns are seen in order.
//!
//! ```text
//!   offset  size
//!        0     1  1 data, 2 end, 3 closed, 4 moved, 5 done
//!        1     4  length of what follows, little-endian; at most 64 KiB
//! ```
//!
//! *End*: no more bytes in this direction. *Closed*: the program has closed the connection. *Moved*: everything that the
//! program wrote here came before this; go on at the named node, in the named migration. *Done*: the caller goes on
//! elsewhere, everything that it sent here came before this.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Most bytes of one piece.
pub(crate) const PIECE: usize = 64 << 10;
const HEADER: usize = 5;

/// A piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// This many bytes are in the buffer.
    Data(usize),
    End,
    Closed,
    Moved {
        node: String,
        migration: String,
    },
    Done,
}

/// Reads pieces; a read that is given up loses nothing.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    inner: R,
    header: [u8; HEADER],
    filled: usize,
    body: Vec<u8>,
    got: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, header: [0; HEADER], filled: 0, body: Vec::new(), got: 0 }
    }

    /// The next piece; its bytes are [`FrameReader::data`].
    pub(crate) async fn next(&mut self) -> io::Result<Frame> {
        while self.filled < HEADER {
            match self.inner.read(&mut self.header[self.filled..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => self.filled += length,
            }
        }
        let [kind, length @ ..] = self.header;
        let length = u32::from_le_bytes(length) as usize;
        if length > PIECE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a piece of a connection is too long"));
        }
        if self.body.len() < length {
            self.body.resize(length, 0);
        }
        while self.got < length {
            match self.inner.read(&mut self.body[self.got..length]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => self.got += more,
            }
        }
        self.filled = 0;
        self.got = 0;
        match (kind, length) {
            (1, 1..) => Ok(Frame::Data(length)),
            (2, 0) => Ok(Frame::End),
            (3, 0) => Ok(Frame::Closed),
            (4, 1..=512) => moved(&self.body[..length]),
            (5, 0) => Ok(Frame::Done),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "an unknown piece of a connection")),
        }
    }

    /// The bytes of the last piece, if it was data of this length.
    pub(crate) fn data(&self, length: usize) -> &[u8] {
        &self.body[..length]
    }
}

fn moved(bytes: &[u8]) -> io::Result<Frame> {
    let text = str::from_utf8(bytes).map_err(io::Error::other)?;
    let (node, migration) = text.split_once('\n').ok_or(io::ErrorKind::InvalidData)?;
    Ok(Frame::Moved { node: node.to_owned(), migration: migration.to_owned() })
}

/// Writes a piece of data: `buffer` has room for the header in front, and `length` bytes behind it.
pub(crate) async fn write_data(
    out: &mut (impl AsyncWrite + Unpin),
    buffer: &mut Buffer,
    length: usize,
) -> io::Result<()> {
    buffer.0[0] = 1;
    buffer.0[1..HEADER].copy_from_slice(&(length as u32).to_le_bytes());
    out.write_all(&buffer.0[..HEADER + length]).await
}

/// Room for one piece.
pub(crate) struct Buffer(Box<[u8]>);

impl Buffer {
    pub(crate) fn new() -> Self {
        Self(vec![0; HEADER + PIECE].into())
    }

    /// Where the bytes go.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        &mut self.0[HEADER..]
    }
}

pub(crate) async fn write_end(out: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    out.write_all(&[2, 0, 0, 0, 0]).await
}

pub(crate) async fn write_closed(out: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    out.write_all(&[3, 0, 0, 0, 0]).await
}

pub(crate) async fn write_done(out: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    out.write_all(&[5, 0, 0, 0, 0]).await
}

pub(crate) async fn write_moved(out: &mut (impl AsyncWrite + Unpin), node: &str, migration: &str) -> io::Result<()> {
    let text = format!("{node}\n{migration}");
    let mut bytes = vec![4];
    bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
    out.write_all(&bytes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_come_back_in_order() {
        let mut bytes = Vec::new();
        let mut buffer = Buffer::new();
        buffer.space()[..3].copy_from_slice(b"abc");
        write_data(&mut bytes, &mut buffer, 3).await.unwrap();
        write_end(&mut bytes).await.unwrap();
        write_moved(&mut bytes, "b", "0a").await.unwrap();
        write_done(&mut bytes).await.unwrap();
        write_closed(&mut bytes).await.unwrap();
        let mut reader = FrameReader::new(&bytes[..]);
        assert_eq!(reader.next().await.unwrap(), Frame::Data(3));
        assert_eq!(reader.data(3), b"abc");
        assert_eq!(reader.next().await.unwrap(), Frame::End);
        let moved = Frame::Moved { node: "b".to_owned(), migration: "0a".to_owned() };
        assert_eq!(reader.next().await.unwrap(), moved);
        assert_eq!(reader.next().await.unwrap(), Frame::Done);
        assert_eq!(reader.next().await.unwrap(), Frame::Closed);
        assert!(reader.next().await.is_err());
    }

    #[tokio::test]
    async fn nonsense_is_refused() {
        let wrong: [&[u8]; 7] = [
            &[0, 0, 0, 0, 0],
            &[6, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0],
            &[1, 1, 0, 1, 0],
            &[2, 1, 0, 0, 0, 0],
            &[4, 1, 0, 0, 0, b'x'],
            &[1, 2, 0, 0, 0, 1],
        ];
        for bytes in wrong {
            assert!(FrameReader::new(bytes).next().await.is_err(), "{bytes:?}");
        }
    }
}
