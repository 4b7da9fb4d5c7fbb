//! What another node may send, or somebody who brings a service back, read from bytes: for the fuzz targets, which cannot reach what is private here.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::backup::Backup;
use crate::frames::{Frame, FrameReader};
use crate::peer::{Greeting, Reply, read};

/// Whether the bytes are a greeting.
pub fn greeting(bytes: &[u8]) -> bool {
    now(read::<Greeting>(&mut &*bytes)).is_some_and(|read| read.is_ok())
}

/// Whether the bytes are a reply to one.
pub fn reply(bytes: &[u8]) -> bool {
    now(read::<Reply>(&mut &*bytes)).is_some_and(|read| read.is_ok())
}

/// Reads the bytes as pieces of a connection: how much data they carry.
pub fn pieces(bytes: &[u8]) -> usize {
    let mut reader = FrameReader::new(bytes);
    let mut total = 0;
    while let Some(Ok(frame)) = now(reader.next()) {
        if let Frame::Data(length) = frame {
            total += reader.data(length).len();
        }
    }
    total
}

/// Whether the bytes are a copy of a checkpoint; one that is must come back from its own bytes.
pub fn backup(bytes: &[u8]) -> bool {
    let Ok(backup) = Backup::from_bytes(bytes) else { return false };
    let again = backup.to_bytes().and_then(|bytes| Backup::from_bytes(&bytes));
    assert_eq!(again.ok(), Some(backup));
    true
}

/// The result of what needs to wait for nothing: all bytes are here.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}
