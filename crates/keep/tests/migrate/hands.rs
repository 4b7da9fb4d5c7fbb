//! Everything that passes between source, destination and ledger goes through these hands, one thing at a time: frame by
//! frame and call by call, so that a test can disturb any of it, or kill whoever it likes there.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use dunlin_handover::ledger::{Ledger, MemoryLedger};
use dunlin_handover::message::{Link, Role};
use dunlin_handover::{LedgerAnswer, LedgerCall, LedgerQuery};

use crate::world::Outside;

/// Something that is about to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment<'a> {
    /// A frame is about to be delivered.
    Frame {
        /// Who sent it.
        from: Role,
        /// Its kind of message.
        kind: u8,
        /// The frame.
        bytes: &'a [u8],
    },
    /// A call is about to reach the ledger.
    Asked(Role),
    /// The ledger has done it, and its answer is about to leave.
    Answered(Role),
}

/// What becomes of it.
pub(crate) enum Act {
    /// It happens.
    Pass,
    /// These frames are delivered instead.
    Deliver(Vec<Vec<u8>>),
    /// The link is cut, both ways.
    Cut,
    /// This side is killed.
    Kill(Role),
    /// The ledger does not answer for a while.
    LedgerAway(Duration),
}

type Hook = Box<dyn FnMut(Moment<'_>) -> Act + Send>;

/// See the module.
pub(crate) struct Hands {
    outside: Arc<Outside>,
    directory: PathBuf,
    hook: Mutex<Option<Hook>>,
    ends: Mutex<Vec<UnixStream>>,
    alive: [Arc<AtomicBool>; 2],
}

fn index(role: Role) -> usize {
    usize::from(role == Role::Destination)
}

impl Hands {
    pub(crate) fn new(outside: Arc<Outside>, directory: PathBuf) -> Self {
        let alive = || Arc::new(AtomicBool::new(true));
        let (hook, ends) = (Mutex::new(None), Mutex::new(Vec::new()));
        Self { outside, directory, hook, ends, alive: [alive(), alive()] }
    }

    /// From now on this decides.
    pub(crate) fn hook(&self, hook: impl FnMut(Moment<'_>) -> Act + Send + 'static) {
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    /// Whether a side has not been killed.
    pub(crate) fn alive(&self, role: Role) -> &Arc<AtomicBool> {
        &self.alive[index(role)]
    }

    /// Where the files of a killed side are, as they were when it was killed.
    pub(crate) fn left_behind(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.killed"))
    }

    fn kill(&self, role: Role) {
        self.outside.kill(&self.alive[index(role)]);
        let name = if role == Role::Source { "retained" } else { "staged" };
        // There may be none yet.
        let _none = std::fs::copy(self.directory.join(name), self.left_behind(name));
        self.cut();
    }

    /// Cuts every link.
    pub(crate) fn cut(&self) {
        for end in self.ends.lock().unwrap().drain(..) {
            let _over = end.shutdown(Shutdown::Both);
        }
    }

    /// What is delivered for a frame; nothing more ever if `None`.
    fn frame(&self, from: Role, frame: Vec<u8>) -> Option<Vec<Vec<u8>>> {
        let mut hook = self.hook.lock().unwrap();
        let moment = Moment::Frame { from, kind: frame[6], bytes: &frame };
        match hook.as_mut().map_or(Act::Pass, |hook| hook(moment)) {
            Act::Pass | Act::LedgerAway(_) => Some(vec![frame]),
            Act::Deliver(frames) => Some(frames),
            Act::Cut => {
                self.cut();
                None
            }
            Act::Kill(role) => {
                self.kill(role);
                None
            }
        }
    }

    /// Whether the ledger can go on with what `moment` says.
    fn ledger(&self, moment: Moment<'_>) -> Result<(), Duration> {
        let mut hook = self.hook.lock().unwrap();
        match hook.as_mut().map_or(Act::Pass, |hook| hook(moment)) {
            Act::Pass | Act::Deliver(_) => Ok(()),
            Act::Cut => {
                self.cut();
                Ok(())
            }
            Act::Kill(role) => {
                self.kill(role);
                Ok(())
            }
            Act::LedgerAway(time) => Err(time),
        }
    }

    /// The way of one side to the ledger.
    pub(crate) fn way(
        self: &Arc<Self>,
        role: Role,
        ledger: &Arc<Mutex<MemoryLedger>>,
    ) -> impl FnMut(&LedgerCall) -> LedgerAnswer + Send + 'static {
        let (hands, ledger) = (self.clone(), ledger.clone());
        move |call| {
            let dead = || !hands.alive(role).load(Ordering::SeqCst);
            let away = |time| {
                thread::sleep(time);
                LedgerAnswer::Unreachable
            };
            if dead() {
                return away(Duration::from_millis(5));
            }
            if let Err(time) = hands.ledger(Moment::Asked(role)) {
                return away(time);
            }
            if dead() {
                return LedgerAnswer::Unreachable;
            }
            let answer = answer(&mut ledger.lock().unwrap(), call);
            if let Err(time) = hands.ledger(Moment::Answered(role)) {
                return away(time);
            }
            if dead() { LedgerAnswer::Unreachable } else { answer }
        }
    }

    /// Two ends of a stream, of the source and of the destination, with these hands between them.
    pub(crate) fn wire(self: &Arc<Self>) -> (UnixStream, UnixStream) {
        let (source, near) = UnixStream::pair().unwrap();
        let (far, destination) = UnixStream::pair().unwrap();
        self.ends.lock().unwrap().extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
        let pass = |from: Role, mut reading: UnixStream, mut writing: UnixStream| {
            let hands = self.clone();
            thread::spawn(move || {
                while let Some(frame) = read_frame(&mut reading) {
                    if frame == ALIVE {
                        let _gone = writing.write_all(&ALIVE);
                        continue;
                    }
                    let Some(frames) = hands.frame(from, frame) else { break };
                    if frames.iter().any(|frame| writing.write_all(frame).is_err()) {
                        break;
                    }
                }
                let _closed = (reading.shutdown(Shutdown::Both), writing.shutdown(Shutdown::Both));
            });
        };
        pass(Role::Source, near.try_clone().unwrap(), far.try_clone().unwrap());
        pass(Role::Destination, far, near);
        (source, destination)
    }
}

fn answer(ledger: &mut MemoryLedger, call: &LedgerCall) -> LedgerAnswer {
    match &call.query {
        LedgerQuery::Apply(request) => match ledger.apply(request).unwrap() {
            Ok(receipt) => LedgerAnswer::Receipt(receipt),
            Err(refused) => LedgerAnswer::Refused(refused),
        },
        LedgerQuery::Read { service, nonce } => match ledger.read(*service, *nonce).unwrap() {
            Ok(reading) => LedgerAnswer::Reading(reading),
            Err(refused) => LedgerAnswer::Refused(refused),
        },
        LedgerQuery::Appraise(nomination) => match ledger.appraise(nomination).unwrap() {
            Ok(()) => LedgerAnswer::Fit,
            Err(refused) => LedgerAnswer::Refused(refused),
        },
    }
}

/// A driver says that it lives.
const ALIVE: [u8; 4] = [0; 4];

fn read_frame(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut start = [0; 4];
    stream.read_exact(&mut start).ok()?;
    if start == ALIVE {
        return Some(start.to_vec());
    }
    let mut frame = vec![0; Link::frame_length(&start).expect("drivers write whole frames")];
    frame[..4].copy_from_slice(&start);
    stream.read_exact(&mut frame[4..]).ok()?;
    Some(frame)
}

/// The name of a kind of message, as `docs/formats/migration.md` lists them.
pub(crate) fn name(kind: u8) -> &'static str {
    match kind {
        0x01 => "Hello",
        0x02 => "Welcome",
        0x03 => "Offer",
        0x04 => "Accept",
        0x05 => "Refuse",
        0x06 => "Module",
        0x07 => "Prepared",
        0x10 => "Pages",
        0x11 => "RoundEnd",
        0x12 => "RoundAck",
        0x13 => "State",
        0x14 => "Final",
        0x15 => "LeftBehind",
        0x20 => "Staged",
        0x21 => "Committed",
        0x22 => "Activated",
        0x30 => "PageRequest",
        0x31 => "PushEnd",
        0x32 => "Complete",
        0x33 => "Reattach",
        0x34 => "Reattached",
        0x35 => "Placed",
        0x40 => "Ping",
        0x41 => "Pong",
        0x42 => "Abort",
        _ => "unknown",
    }
}
