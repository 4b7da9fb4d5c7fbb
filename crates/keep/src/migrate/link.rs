//! The two threads at each end of a stream, and the one that carries calls to the ledger.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dunlin_handover::message::{Link, MAX_FRAME};
use dunlin_handover::{LedgerCall, LedgerReply, Limits};

use super::{Error, LedgerWay};

/// In place of a frame's length: the sender lives, and is busy.
const ALIVE: [u8; 4] = [0; 4];
/// Frames that wait for the writer.
const WRITING: usize = 4;
/// Frames that wait for the driver.
const READING: usize = 8;
/// How long what the other side said last may take to come, once nothing can be said to it any more.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A stream whose two directions are used by two threads.
pub struct Stream {
    /// What comes.
    pub reader: Box<dyn Read + Send>,
    /// What goes.
    pub writer: Box<dyn Write + Send>,
    /// Ends both directions at once, so that a blocked reader and writer return.
    pub close: Box<dyn Fn() + Send + Sync>,
}

impl Stream {
    /// Of a Unix socket.
    ///
    /// # Errors
    /// If the system cannot duplicate the descriptor.
    pub fn unix(socket: UnixStream) -> io::Result<Self> {
        let (writer, closer) = (socket.try_clone()?, socket.try_clone()?);
        let close = move || drop(closer.shutdown(Shutdown::Both));
        Ok(Self { reader: Box::new(socket), writer: Box::new(writer), close: Box::new(close) })
    }

    /// Of a TCP connection.
    ///
    /// # Errors
    /// If the system cannot duplicate the descriptor or switch off delays.
    pub fn tcp(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let (writer, closer) = (socket.try_clone()?, socket.try_clone()?);
        let close = move || drop(closer.shutdown(Shutdown::Both));
        Ok(Self { reader: Box::new(socket), writer: Box::new(writer), close: Box::new(close) })
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

/// What a driver hears.
pub(crate) enum Input<L> {
    Frame(u64, Vec<u8>),
    /// Of the link with this number.
    LinkLost(u64),
    /// The other side of the link with this number lives, and is busy.
    Alive(u64),
    /// The writer has room again.
    Room,
    Ledger(Box<LedgerReply>),
    Reconnect(Stream),
    Cancel,
    /// What only one of the two drivers hears.
    Local(L),
}

/// Whether a driver is at work. While it is, because a disk is slow, it cannot say itself that it lives: its writer does, for a
/// while.
#[derive(Debug)]
pub(crate) struct Pulse {
    every: Duration,
    most: Duration,
    at_work_since: Mutex<Option<Instant>>,
}

impl Pulse {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        let at_work_since = Mutex::new(Some(Instant::now()));
        Arc::new(Self { every: limits.keepalive, most: limits.busy, at_work_since })
    }

    /// The driver waits for what it hears.
    pub(crate) fn rest(&self) {
        *self.at_work_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The driver has heard something, and does it.
    pub(crate) fn work(&self) {
        *self.at_work_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// A driver that has been at work for too long may never come back from it.
    fn is_at_work(&self) -> bool {
        let since = *self.at_work_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() < self.most)
    }
}

/// A stream in use.
pub(crate) struct Connection {
    number: u64,
    frames: Option<SyncSender<Vec<u8>>>,
    waiting: Arc<AtomicBool>,
    /// Whether the driver is yet to hear that the other side lives: it need not hear it twice.
    alive: Arc<AtomicBool>,
    close: Arc<dyn Fn() + Send + Sync>,
    gate: Arc<Gate>,
    writer: Option<JoinHandle<()>>,
}

impl Connection {
    pub(crate) fn open<L: Send + 'static>(
        number: u64,
        stream: Stream,
        inputs: &Sender<Input<L>>,
        pulse: &Arc<Pulse>,
    ) -> Result<Self, Error> {
        let Stream { mut reader, mut writer, close } = stream;
        let close: Arc<dyn Fn() + Send + Sync> = close.into();
        let (frames, outgoing): (_, Receiver<Vec<u8>>) = sync_channel(WRITING);
        let waiting = Arc::new(AtomicBool::new(false));
        let (to_driver, is_waiting, pulse, closing) = (inputs.clone(), waiting.clone(), pulse.clone(), close.clone());
        let writer = thread::Builder::new().name("dunlin-writer".to_owned()).spawn(move || {
            // The other side may have said its last word, that it has everything, and gone, while frames are on their way to
            // it. That the link is lost is for the reader to say, who hears that word first.
            let mut broken: Option<Instant> = None;
            loop {
                let patience = broken.map_or(pulse.every, |until| until.saturating_duration_since(Instant::now()));
                let frame = match outgoing.recv_timeout(patience) {
                    Ok(frame) => Some(frame),
                    Err(RecvTimeoutError::Timeout) => pulse.is_at_work().then(|| ALIVE.to_vec()),
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                if let Some(until) = broken {
                    if until <= Instant::now() {
                        return closing();
                    }
                } else if let Some(frame) = frame
                    && writer.write_all(&frame).and_then(|()| writer.flush()).is_err()
                {
                    broken = Some(Instant::now() + LAST_WORDS);
                }
                if is_waiting.swap(false, Ordering::SeqCst) {
                    let _gone = to_driver.send(Input::Room);
                }
            }
        });
        let writer = writer.map_err(Error::Thread)?;
        // The driver's inputs are not bounded; frames are, by this.
        let gate = Arc::new(Gate::default());
        let alive = Arc::new(AtomicBool::new(false));
        let (at_gate, is_alive, to_driver) = (gate.clone(), alive.clone(), inputs.clone());
        let reading = thread::Builder::new().name("dunlin-reader".to_owned()).spawn(move || {
            loop {
                let frame = match read_frame(&mut *reader) {
                    Ok(Some(frame)) => frame,
                    Ok(None) => {
                        if !is_alive.swap(true, Ordering::SeqCst) {
                            let _gone = to_driver.send(Input::Alive(number));
                        }
                        continue;
                    }
                    Err(_) => {
                        let _gone = to_driver.send(Input::LinkLost(number));
                        return;
                    }
                };
                if to_driver.send(Input::Frame(number, frame)).is_err() {
                    return;
                }
                at_gate.enter();
            }
        });
        reading.map_err(Error::Thread)?;
        Ok(Self { number, frames: Some(frames), waiting, alive, close, gate, writer: Some(writer) })
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The driver has heard that the other side lives.
    pub(crate) fn heard_alive(&self) {
        self.alive.store(false, Ordering::SeqCst);
    }

    /// A frame that came was dealt with: the reader may read another.
    pub(crate) fn taken(&self) {
        self.gate.leave();
    }

    /// Gives a frame to the writer; gives it back if there is no room now. A frame for a lost link is dropped.
    pub(crate) fn send(&self, frame: Vec<u8>) -> Option<Vec<u8>> {
        let frames = self.frames.as_ref()?;
        match frames.try_send(frame) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => None,
            Err(TrySendError::Full(frame)) => {
                self.waiting.store(true, Ordering::SeqCst);
                // The writer may have emptied its queue in between, and would not tell.
                match frames.try_send(frame) {
                    Ok(()) | Err(TrySendError::Disconnected(_)) => None,
                    Err(TrySendError::Full(frame)) => Some(frame),
                }
            }
        }
    }

    /// Sends what was given so far and closes the link.
    pub(crate) fn finish(&mut self) {
        self.frames = None;
        if let Some(writer) = self.writer.take() {
            let _panicked = writer.join();
        }
        (self.close)();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.frames = None;
        (self.close)();
        self.gate.open();
    }
}

/// Keeps a reader from reading far ahead.
#[derive(Default)]
struct Gate {
    /// Frames on their way to the driver; the largest number once nobody waits for frames any more.
    inside: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    fn enter(&self) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        *inside = inside.saturating_add(1);
        while *inside >= READING && *inside != usize::MAX {
            inside = self.changed.wait(inside).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn leave(&self) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        *inside = inside.saturating_sub(1);
        self.changed.notify_one();
    }

    fn open(&self) {
        *self.inside.lock().unwrap_or_else(PoisonError::into_inner) = usize::MAX;
        self.changed.notify_one();
    }
}

/// The next frame, or nothing where the other side says that it lives.
fn read_frame(reader: &mut dyn Read) -> io::Result<Option<Vec<u8>>> {
    let mut start = [0; 4];
    reader.read_exact(&mut start)?;
    if start == ALIVE {
        return Ok(None);
    }
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let length = Link::frame_length(&start).map_err(invalid)?;
    debug_assert!(length <= MAX_FRAME);
    let mut frame = vec![0; length];
    frame[..4].copy_from_slice(&start);
    reader.read_exact(&mut frame[4..])?;
    Ok(Some(frame))
}

/// Starts the thread that carries calls to the ledger.
pub(crate) fn ledger<L: Send + 'static>(
    mut way: Box<dyn LedgerWay>,
    inputs: Sender<Input<L>>,
) -> Result<Sender<LedgerCall>, Error> {
    let (calls, asked) = channel::<LedgerCall>();
    let spawned = thread::Builder::new().name("dunlin-ledger".to_owned()).spawn(move || {
        for call in asked {
            let answer = way.ask(&call);
            if inputs.send(Input::Ledger(Box::new(LedgerReply { id: call.id, answer }))).is_err() {
                return;
            }
        }
    });
    spawned.map_err(Error::Thread)?;
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use dunlin_handover::message::{ChannelGuard, Message};

    use super::*;

    /// Reads what is there once somebody lets it, and then finds the end.
    struct Late(Receiver<()>, io::Cursor<Vec<u8>>);

    impl Read for Late {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let _let = self.0.recv();
            self.1.read(into)
        }
    }

    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_last_word_of_a_side_that_is_gone_is_heard_before_the_link_is_lost() {
        let mut link = Link::new(Box::new(ChannelGuard), 1);
        link.send(&Message::Ping(7));
        let word = link.poll().unwrap();
        let (let_read, late) = channel();
        let (closed, is_closed) = channel();
        let stream = Stream {
            reader: Box::new(Late(late, io::Cursor::new(word.clone()))),
            writer: Box::new(Gone),
            close: Box::new(move || closed.send(()).unwrap_or_default()),
        };
        let (inputs, heard) = channel::<Input<()>>();
        let connection = Connection::open(3, stream, &inputs, &Pulse::new(&Limits::default())).unwrap();
        // More than the queue holds, to a side that is gone: the driver is not held up.
        for _ in 0..WRITING * 4 {
            let mut unsent = connection.send(word.clone());
            while let Some(frame) = unsent {
                assert!(matches!(heard.recv().unwrap(), Input::Room));
                unsent = connection.send(frame);
            }
        }
        drop(let_read);
        let mut rest = heard.iter().filter(|input| !matches!(input, Input::Room));
        assert!(matches!(rest.next(), Some(Input::Frame(3, frame)) if frame == word));
        assert!(matches!(rest.next(), Some(Input::LinkLost(3))));
        drop(connection);
        assert!(is_closed.recv().is_ok());
    }

    #[test]
    fn a_side_that_nothing_can_be_said_to_and_that_says_nothing_is_closed() {
        let (_let_read, late) = channel();
        let (closed, is_closed) = channel();
        let stream = Stream {
            reader: Box::new(Late(late, io::Cursor::default())),
            writer: Box::new(Gone),
            close: Box::new(move || closed.send(()).unwrap_or_default()),
        };
        let (inputs, _heard) = channel::<Input<()>>();
        let connection = Connection::open(0, stream, &inputs, &Pulse::new(&Limits::default())).unwrap();
        assert!(connection.send(vec![1]).is_none());
        assert!(is_closed.recv_timeout(Duration::from_secs(60)).is_ok());
    }
}
