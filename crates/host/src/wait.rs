//! Waiting that a request to stop ends at once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::errno::Errno;
use crate::preview1::Break;

/// What blocking calls wait on besides what they wait for.
#[derive(Debug, Clone)]
pub(crate) struct Waker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    requested: AtomicBool,
    /// Readable exactly while a stop is requested.
    event: OwnedFd,
}

/// How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Not at all.
    None,
    /// At most this long.
    For(Duration),
    /// For ever.
    Endless,
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Waited {
    /// At least one descriptor is ready: what each is ready for.
    Ready(Vec<PollFlags>),
    /// None became ready in time.
    TimedOut,
    /// A stop was requested and none is ready.
    Interrupted,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Shared { requested: AtomicBool::new(false), event })))
    }

    /// Ends the present wait and every later one, until [`Waker::clear`].
    pub(crate) fn interrupt(&self) {
        self.0.requested.store(true, Ordering::SeqCst);
        // It can only fail when the counter is full, and then it is readable anyway.
        let _ = rustix::io::write(&self.0.event, &1_u64.to_ne_bytes());
    }

    pub(crate) fn clear(&self) {
        self.0.requested.store(false, Ordering::SeqCst);
        let _ = rustix::io::read(&self.0.event, &mut [0; 8]);
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.0.requested.load(Ordering::SeqCst)
    }

    /// Waits until one of `fds` is ready.
    pub(crate) fn wait(&self, fds: &[(BorrowedFd<'_>, PollFlags)], patience: Patience) -> Result<Waited, Errno> {
        let mut polled: Vec<PollFd<'_>> = fds.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        polled.push(PollFd::from_borrowed_fd(self.0.event.as_fd(), PollFlags::IN));
        let started = Instant::now();
        loop {
            let left = match patience {
                Patience::None => Some(Duration::ZERO),
                Patience::For(duration) => Some(duration.saturating_sub(started.elapsed())),
                Patience::Endless => None,
            };
            // A duration too long for the system is as good as endless.
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut polled, timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
            let ready: Vec<PollFlags> = polled[..fds.len()].iter().map(PollFd::revents).collect();
            if ready.iter().any(|flags| !flags.is_empty()) {
                return Ok(Waited::Ready(ready));
            }
            if patience == Patience::None {
                return Ok(Waited::TimedOut);
            }
            if self.is_interrupted() {
                return Ok(Waited::Interrupted);
            }
            if let Patience::For(duration) = patience
                && started.elapsed() >= duration
            {
                return Ok(Waited::TimedOut);
            }
        }
    }

    /// As [`Waker::wait_for`], for a descriptor that has just said that it is not ready: it need not be asked again.
    pub(crate) fn wait_after(&self, fd: BorrowedFd<'_>, flags: PollFlags, nonblocking: bool) -> Result<(), Break> {
        if nonblocking { Err(Errno::Again.into()) } else { self.wait_for(fd, flags, false) }
    }

    /// Waits until `fd` is ready for `flags`: `EAGAIN` when it is not and the call must not block, and
    /// [`Break::Reissue`] when a stop is requested first.
    pub(crate) fn wait_for(&self, fd: BorrowedFd<'_>, flags: PollFlags, nonblocking: bool) -> Result<(), Break> {
        let patience = if nonblocking { Patience::None } else { Patience::Endless };
        match self.wait(&[(fd, flags)], patience)? {
            Waited::Ready(ready) if ready[0].contains(PollFlags::NVAL) => Err(Errno::Badf.into()),
            Waited::Ready(_) => Ok(()),
            Waited::TimedOut => Err(Errno::Again.into()),
            Waited::Interrupted => Err(Break::Reissue),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_a_wait_and_later_ones() {
        let waker = Waker::new().unwrap();
        let other = waker.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            other.interrupt();
            Instant::now()
        });
        assert_eq!(waker.wait(&[], Patience::Endless), Ok(Waited::Interrupted));
        let late = Instant::now().duration_since(thread.join().unwrap());
        assert!(late < Duration::from_millis(100), "woken after {late:?}");
        assert_eq!(waker.wait(&[], Patience::For(Duration::from_secs(60))), Ok(Waited::Interrupted));
        waker.clear();
        assert_eq!(waker.wait(&[], Patience::For(Duration::from_millis(1))), Ok(Waited::TimedOut));
    }

    #[test]
    fn what_is_ready_wins_over_a_request() {
        let waker = Waker::new().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&write, b"x").unwrap();
        waker.interrupt();
        let waited = waker.wait(&[(read.as_fd(), PollFlags::IN)], Patience::Endless).unwrap();
        assert!(matches!(waited, Waited::Ready(ready) if ready[0].contains(PollFlags::IN)));
    }
}
