//! Connections of clients: the node hears of each, and has a duplicate of its socket.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dunlin_host::{Carrier, ConnectionId};
use dunlin_keep_link::{Closed, Connected, ConnectionId as LinkId, Report};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::outbox::Outbox;

/// Tells the node about connections, as `docs/formats/keep-link.md` of the repository says.
#[derive(Debug)]
pub(crate) struct LinkCarrier {
    outbox: Outbox,
    open: AtomicU32,
    arriving: Mutex<Arriving>,
}

/// What becomes of connections that a state brings with it.
#[derive(Debug)]
enum Arriving {
    /// They go on. The node hears of them once the program is to run, since it may never come to that.
    Awaited(Vec<(Connected, OwnedFd, OwnedFd)>),
    /// They are over: the state is from storage, and its clients are gone.
    Over,
}

impl LinkCarrier {
    /// For a program that begins here or comes from storage.
    pub(crate) fn fresh(outbox: Outbox) -> Self {
        Self { outbox, open: AtomicU32::new(0), arriving: Mutex::new(Arriving::Over) }
    }

    /// For a program that arrives from another keep.
    pub(crate) fn arriving(outbox: Outbox) -> Self {
        Self { outbox, open: AtomicU32::new(0), arriving: Mutex::new(Arriving::Awaited(Vec::new())) }
    }

    /// The program is about to run: tells the node about the connections that came with it.
    pub(crate) fn announce(&self) -> io::Result<()> {
        let Arriving::Awaited(arrived) = core::mem::replace(&mut *self.state(), Arriving::Over) else { return Ok(()) };
        for (connected, node, keep) in arrived {
            let report = Report::Connected(connected);
            self.outbox.send_with(&report, &[node.as_fd(), keep.as_fd()])?;
        }
        Ok(())
    }

    /// How many connections the program has.
    pub(crate) fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, Arriving> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Carrier for LinkCarrier {
    fn connected(&self, listener: u32, socket: BorrowedFd<'_>) -> io::Result<ConnectionId> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)?;
        let report = Report::Connected(Connected { id: LinkId(id), listener, carried: false });
        self.outbox.send_with(&report, &[socket])?;
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok(ConnectionId(id))
    }

    fn carried(&self, id: ConnectionId, listener: u32) -> io::Result<OwnedFd> {
        let mut state = self.state();
        let Arriving::Awaited(arrived) = &mut *state else { return Err(io::ErrorKind::ConnectionReset.into()) };
        let (keep, node) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let duplicate = keep.try_clone()?;
        arrived.push((Connected { id: LinkId(id.0), listener, carried: true }, node, duplicate));
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok(keep)
    }

    fn closed(&self, id: ConnectionId) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.outbox.send(&Report::Closed(Closed { id: LinkId(id.0) }));
    }
}
