//! One measured service: two processes, the road between them, and a client.

use std::io::BufReader;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use dunlin_handover::ServiceId;

use super::client::{Client, Heard};
use super::names::Register;
use super::orders::{Answer, Arrived, How, Left, Order, Setting, hear, say};
use super::road::{Link, Road};
use crate::failure::{Exit, Failure, Result};

/// How long a service is left alone before it moves, so that its memory is warm and the client knows the usual.
const SETTLE: Duration = Duration::from_millis(100);

/// What a service is measured with.
#[derive(Debug, Clone)]
pub(super) struct Scene<'a> {
    pub(super) module: &'a Path,
    pub(super) mebibytes: u64,
    pub(super) rate: u64,
    pub(super) link: Link,
    pub(super) storage: &'a Path,
    /// See [`Setting`].
    pub(super) authority: Option<(Vec<u8>, Vec<u8>)>,
}

/// One move, from all three sides.
#[derive(Debug)]
pub(super) struct Move {
    pub(super) left: Left,
    pub(super) arrived: Arrived,
    pub(super) heard: Heard,
}

/// A service that runs in one of two places and is asked by a client.
pub(super) struct Stage {
    // In the order in which they must go.
    client: Client,
    places: [Place; 2],
    road: Road,
    at: usize,
    register: Register,
    service: ServiceId,
    scratch: Scratch,
}

/// A directory that goes with this, also when a measurement fails.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left_over = std::fs::remove_dir_all(&self.0);
    }
}

struct Place {
    child: Child,
    orders: UnixStream,
    answers: BufReader<UnixStream>,
}

impl Stage {
    /// Starts everything.
    pub(super) fn open(scene: &Scene<'_>, number: u64) -> Result<Self> {
        let directory = scene.storage.join(format!("dunlin-live-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory)
            .map_err(Failure::because(Exit::CannotCreate, format!("cannot create {}", directory.display())))?;
        let scratch = Scratch(directory.clone());
        let register = Register::open(&directory)?;
        let mut service = ServiceId([7; 16]);
        service.0[..8].copy_from_slice(&number.to_le_bytes());
        register.create(service)?;
        let setting = Setting {
            module: scene.module.to_owned(),
            arguments: vec![scene.mebibytes.to_string(), scene.rate.to_string()],
            ledger: register.socket.clone(),
            ledger_key: register.key.0,
            service: service.0,
            storage: directory.clone(),
            authority: scene.authority.clone(),
        };
        let failed = || Failure::because(Exit::Software, "the places of the measurement cannot be started");
        let (near, far) = UnixStream::pair().map_err(failed())?;
        let road = Road::build(scene.link)?;
        // Both places have the other end of the client's socket: whoever runs the service reads and writes it.
        let place = |side: usize| -> Result<Place> {
            let path = directory.join(format!("orders-{side}"));
            let listener = UnixListener::bind(&path).map_err(failed())?;
            let mut command = road.command(side)?;
            command.args(["bench", "live-place", "--orders"]).arg(&path);
            command.stdin(Stdio::from(OwnedFd::from(far.try_clone().map_err(failed())?)));
            let mut child = command.spawn().map_err(failed())?;
            let orders = accept(&listener, &mut child)?;
            let answers = BufReader::new(orders.try_clone().map_err(failed())?);
            let mut place = Place { child, orders, answers };
            say(&mut place.orders, &setting)?;
            Ok(place)
        };
        let mut places = [place(0)?, place(1)?];
        drop(far);
        places[0].tell(&Order::Start)?;
        match places[0].hear()? {
            Answer::Running => {}
            other => return Err(unexpected(other)),
        }
        let client = Client::start(near)?;
        thread::sleep(SETTLE);
        Ok(Self { client, places, road, at: 0, register, service, scratch })
    }

    /// What the client heard while nothing moved.
    pub(super) fn rest(&self) -> Heard {
        self.client.take();
        thread::sleep(SETTLE * 2);
        self.client.take()
    }

    /// Moves the service to the other place.
    pub(super) fn go(&mut self, how: How) -> Result<Move> {
        let (from, to) = (self.at, 1 - self.at);
        self.places[to].tell(&Order::Arrive { address: self.road.listen() })?;
        let address = match self.places[to].hear()? {
            Answer::Listening(address) => self.road.to(to, address)?,
            other => return Err(unexpected(other)),
        };
        self.client.take();
        self.places[from].tell(&Order::Leave { address, how })?;
        let left = match self.places[from].hear()? {
            Answer::Left(left) => *left,
            other => return Err(unexpected(other)),
        };
        let arrived = match self.places[to].hear()? {
            Answer::Arrived(arrived) => arrived,
            other => return Err(unexpected(other)),
        };
        self.road.clear();
        if left.moved {
            self.at = to;
        }
        if left.moved != arrived.live {
            let message = format!("one side says {}, the other {}", left.outcome, arrived.outcome);
            return Err(Failure::new(Exit::Software, message));
        }
        // Answers to what was asked during the pause.
        thread::sleep(SETTLE / 5);
        Ok(Move { left, arrived, heard: self.client.take() })
    }

    /// In which epoch the service is.
    pub(super) fn epoch(&self) -> Result<u64> {
        Ok(self.register.record(self.service)?.epoch)
    }

    /// Ends the service; returns how many questions were asked, how many answered, and its last words.
    pub(super) fn close(self) -> Result<(u64, u64, String)> {
        let Self { client, places, road, scratch, .. } = self;
        let ended = client.end();
        drop((places, road));
        drop(scratch);
        Ok(ended)
    }
}

/// Waits for the child that was just started, unless it ends.
fn accept(listener: &UnixListener, child: &mut Child) -> Result<UnixStream> {
    let failed = || Failure::because(Exit::Software, "a place of the measurement does not ask for orders");
    listener.set_nonblocking(true).map_err(failed())?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).map_err(failed())?;
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(failed()(error)),
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(Failure::new(Exit::Software, format!("a place of the measurement ended: {status}")));
        }
    }
}

fn unexpected(answer: Answer) -> Failure {
    match answer {
        Answer::Failed(why) => Failure::new(Exit::Software, format!("a place failed: {why}")),
        other => Failure::new(Exit::Software, format!("a place said {other:?}")),
    }
}

impl Place {
    fn tell(&mut self, order: &Order) -> Result<()> {
        say(&mut self.orders, order)
    }

    fn hear(&mut self) -> Result<Answer> {
        hear(&mut self.answers)?.ok_or_else(|| Failure::new(Exit::Software, "a place of the measurement has ended"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = (self.child.kill(), self.child.wait());
    }
}
