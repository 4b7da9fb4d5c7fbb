//! `poll_oneoff`. State: a call that was interrupted, so that it sleeps only the rest when it is issued again.
//!
//! What has to be known is only when the call was first issued, on the monotonic clock, which stands still during a
//! move. The call that is issued again is the next one that the program makes, with the same arguments.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::PollFlags;

use crate::codec::{CodecError, Reader, Writer};
use crate::errno::Errno;
use crate::memory::{Memory, le_u16, le_u32, le_u64};
use crate::preview1::clocks::{Clock, Clocks};
use crate::preview1::descriptors::{Object, Table};
use crate::preview1::streams::Streams;
use crate::preview1::{Break, Params, rights};
use crate::sections::{Frozen, kind};
use crate::wait::{Patience, Waited};
use crate::world::World;

/// Bytes of a subscription.
const SUBSCRIPTION: u32 = 48;

/// Bytes of an event.
const EVENT: u32 = 32;

/// The kinds of subscriptions and events.
const CLOCK: u8 = 0;
const FD_READ: u8 = 1;
const FD_WRITE: u8 = 2;

/// The flag of a clock subscription whose time is absolute.
const ABSOLUTE: u16 = 1;

/// The flag of an event that says that the other end is gone.
const HANGUP: u16 = 1;

/// An interrupted call: both the live state and the frozen one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PollV1 {
    /// Its arguments.
    args: [u32; 4],
    /// When it was first issued, on the monotonic clock.
    started: u64,
}

impl Frozen for PollV1 {
    const KIND: u16 = kind::POLL;
    const VERSION: u16 = 1;

    fn write(&self, writer: &mut Writer) {
        self.args.iter().for_each(|arg| writer.u32(*arg));
        writer.u64(self.started);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let args = [reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?];
        Ok(Self { args, started: reader.u64()? })
    }
}

/// What a subscription waits for.
enum Wait<'a> {
    /// A time on the monotonic clock.
    Until(u64),
    /// A descriptor of the host, and whether the bytes that can be read from it are worth a call of the system: programs
    /// that poll sockets read until there are no more.
    Host { fd: BorrowedFd<'a>, flags: PollFlags, counted: bool },
    /// Nothing: so many bytes can be read or written, with these flags.
    Nothing(u64, u16),
}

/// A subscription.
struct Subscription<'a> {
    userdata: u64,
    kind: u8,
    wait: Wait<'a>,
}

pub(crate) fn poll_oneoff(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let args = [params.u32(0), params.u32(1), params.u32(2), params.u32(3)];
    let [input, output, count, result] = args;
    let pending = world.pending_poll.take().filter(|pending| pending.args == args);
    if count == 0 {
        return Err(Errno::Inval.into());
    }
    let input = memory.range(input, count, SUBSCRIPTION)?;
    memory.range(output, count, EVENT)?;
    memory.range(result, 1, 4)?;
    if count > world.limits.subscriptions {
        return Err(Errno::Nomem.into());
    }
    let started = pending.map_or_else(|| world.clocks.monotonic(), |pending| pending.started);
    let subscriptions: Vec<_> = memory
        .at(&input)
        .chunks_exact(SUBSCRIPTION as usize)
        .map(|bytes| subscription(bytes, &world.table, &world.streams, &world.clocks, started))
        .collect::<Result<_, _>>()?;

    let ready = match wait(&subscriptions, world)? {
        Wake::Ready(ready, time) => {
            let events = events(&subscriptions, &ready, time);
            world.clocks.advance_to(time);
            events
        }
        Wake::Interrupted => {
            world.pending_poll = Some(PollV1 { args, started });
            return Err(Break::Reissue);
        }
    };
    for (at, event) in (0_u32..).zip(&ready) {
        memory.write(output + at * EVENT, event)?;
    }
    Ok(memory.write_u32(result, ready.len() as u32)?)
}

/// Reads a subscription.
fn subscription<'a>(
    bytes: &[u8],
    table: &'a Table,
    streams: &'a Streams,
    clocks: &Clocks,
    started: u64,
) -> Result<Subscription<'a>, Errno> {
    let kind = bytes[8];
    let wait = match kind {
        CLOCK => {
            let clock = Clock::from_id(le_u32(&bytes[16..]), Errno::Inval)?;
            let timeout = le_u64(&bytes[24..]);
            let flags = le_u16(&bytes[40..]);
            Wait::Until(match (flags, clock) {
                (0, _) => started.saturating_add(timeout),
                (ABSOLUTE, Clock::Monotonic) => timeout,
                (ABSOLUTE, Clock::Realtime) => {
                    clocks.monotonic().saturating_add(timeout.saturating_sub(clocks.realtime()))
                }
                _ => return Err(Errno::Inval),
            })
        }
        FD_READ | FD_WRITE => {
            let fd = le_u32(&bytes[16..]);
            let object = &table.get(fd, rights::POLL_FD_READWRITE)?.object;
            if kind == FD_READ { readable(object, streams)? } else { writable(object, streams)? }
        }
        _ => return Err(Errno::Inval),
    };
    Ok(Subscription { userdata: le_u64(bytes), kind, wait })
}

fn readable<'a>(object: &'a Object, streams: &'a Streams) -> Result<Wait<'a>, Errno> {
    let now = |bytes: u64| Wait::Nothing(bytes, if bytes == 0 { HANGUP } else { 0 });
    Ok(match object {
        Object::Stdin => match streams.poll_input() {
            Ok(fd) => Wait::Host { fd, flags: PollFlags::IN, counted: true },
            Err(bytes) => now(bytes),
        },
        Object::File(file) => now(file.content.len()?.saturating_sub(file.offset)),
        Object::Listener(listener) => Wait::Host { fd: listener.host_fd(), flags: PollFlags::IN, counted: false },
        Object::Connection(connection) => match connection.poll_input() {
            Ok(fd) => Wait::Host { fd, flags: PollFlags::IN, counted: false },
            Err(bytes) => now(bytes),
        },
        Object::Stdout | Object::Stderr | Object::Directory(_) => return Err(Errno::Badf),
    })
}

fn writable<'a>(object: &'a Object, streams: &'a Streams) -> Result<Wait<'a>, Errno> {
    let host = |fd: Option<BorrowedFd<'a>>, gone: u16| match fd {
        Some(fd) => Wait::Host { fd, flags: PollFlags::OUT, counted: false },
        None => Wait::Nothing(1, gone),
    };
    Ok(match object {
        Object::Stdout => host(streams.stdout.host_fd(), 0),
        Object::Stderr => host(streams.stderr.host_fd(), 0),
        Object::File(_) => Wait::Nothing(1, 0),
        Object::Connection(connection) => host(connection.host_fd(), HANGUP),
        Object::Stdin | Object::Directory(_) | Object::Listener(_) => return Err(Errno::Badf),
    })
}

/// How the wait for subscriptions ended.
enum Wake {
    /// What each host descriptor, in order, is ready for, and the monotonic time.
    Ready(Vec<PollFlags>, u64),
    Interrupted,
}

fn wait(subscriptions: &[Subscription<'_>], world: &World) -> Result<Wake, Errno> {
    let mut fds = Vec::with_capacity(subscriptions.len());
    let mut deadline: Option<u64> = None;
    let mut immediate = false;
    for subscription in subscriptions {
        match subscription.wait {
            Wait::Host { fd, flags, counted: _ } => fds.push((fd, flags)),
            Wait::Until(time) => deadline = Some(deadline.map_or(time, |earliest| earliest.min(time))),
            Wait::Nothing(..) => immediate = true,
        }
    }
    let virtual_time = world.clocks.is_virtual();
    loop {
        let now = world.clocks.monotonic();
        let patience = match deadline {
            _ if immediate => Patience::None,
            // Virtual time passes at once.
            Some(_) if virtual_time => Patience::None,
            Some(time) if time <= now => Patience::None,
            Some(time) => Patience::For(Duration::from_nanos(time - now)),
            None => Patience::Endless,
        };
        let idle = || vec![PollFlags::empty(); fds.len()];
        match world.waker.wait(&fds, patience)? {
            Waited::Ready(ready) => return Ok(Wake::Ready(ready, world.clocks.monotonic())),
            Waited::TimedOut if immediate => return Ok(Wake::Ready(idle(), world.clocks.monotonic())),
            Waited::TimedOut if virtual_time => return Ok(Wake::Ready(idle(), deadline.unwrap_or(now).max(now))),
            Waited::TimedOut => {
                let now = world.clocks.monotonic();
                // The clock may be a hair behind the wait.
                if deadline.is_none_or(|time| time <= now) {
                    return Ok(Wake::Ready(idle(), now));
                }
            }
            Waited::Interrupted => return Ok(Wake::Interrupted),
        }
    }
}

/// The events of those subscriptions that are ready.
fn events(subscriptions: &[Subscription<'_>], ready: &[PollFlags], time: u64) -> Vec<[u8; EVENT as usize]> {
    let mut ready = ready.iter();
    subscriptions
        .iter()
        .filter_map(|subscription| {
            let (bytes, flags) = match subscription.wait {
                Wait::Until(deadline) => (deadline <= time).then_some((0, 0))?,
                Wait::Nothing(bytes, flags) => (bytes, flags),
                Wait::Host { fd, flags: _, counted } => {
                    let flags = *ready.next()?;
                    if flags.is_empty() {
                        return None;
                    }
                    host_event(counted.then_some(fd), flags)
                }
            };
            let mut event = [0; EVENT as usize];
            event[..8].copy_from_slice(&subscription.userdata.to_le_bytes());
            event[10] = subscription.kind;
            event[16..24].copy_from_slice(&bytes.to_le_bytes());
            event[24..26].copy_from_slice(&flags.to_le_bytes());
            Some(event)
        })
        .collect()
}

/// The bytes and flags of an event of a host descriptor, which is given if its bytes are counted.
fn host_event(counted: Option<BorrowedFd<'_>>, ready: PollFlags) -> (u64, u16) {
    let gone = ready.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
    if gone && !ready.contains(PollFlags::IN) {
        return (0, HANGUP);
    }
    // At least one: a terminal has lines that are not counted.
    let bytes = counted.and_then(|fd| rustix::io::ioctl_fionread(fd).ok()).unwrap_or(1);
    (bytes.max(1), 0)
}
