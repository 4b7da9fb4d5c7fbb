//! The network between the two places: none but this machine's loopback, or a link of a chosen bandwidth (`tbf` between
//! two network namespaces) with a relay that delays every byte.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure, Result};

/// A link by name, as on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub(crate) enum Link {
    /// This machine's loopback.
    #[value(name = "loopback")]
    Loopback,
    /// 1 Gbit/s, 1 ms there and back.
    #[value(name = "1g")]
    Gigabit,
    /// 100 Mbit/s, 20 ms.
    #[value(name = "100m")]
    Fast,
    /// 10 Mbit/s, 80 ms.
    #[value(name = "10m")]
    Slow,
}

impl Link {
    pub(super) const ALL: [Self; 4] = [Self::Loopback, Self::Gigabit, Self::Fast, Self::Slow];

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Gigabit => "1 Gbit/s, 1 ms",
            Self::Fast => "100 Mbit/s, 20 ms",
            Self::Slow => "10 Mbit/s, 80 ms",
        }
    }

    /// Bits a second, and the time there and back.
    fn shape(self) -> Option<(u64, Duration)> {
        match self {
            Self::Loopback => None,
            Self::Gigabit => Some((1_000_000_000, Duration::from_millis(1))),
            Self::Fast => Some((100_000_000, Duration::from_millis(20))),
            Self::Slow => Some((10_000_000, Duration::from_millis(80))),
        }
    }
}

/// Two network namespaces with a link between them, and a relay on the far side of each direction. Everything is gone
/// when this is.
#[derive(Debug)]
pub(super) struct Road {
    names: Option<[String; 2]>,
    relays: Vec<Child>,
    delay: Duration,
    number: u8,
}

impl Road {
    /// Builds it.
    pub(super) fn build(link: Link) -> Result<Self> {
        let number = (std::process::id() % 200) as u8;
        let Some((bits, round_trip)) = link.shape() else {
            return Ok(Self { names: None, relays: Vec::new(), delay: Duration::ZERO, number });
        };
        let names = ["a", "b"].map(|side| format!("dunlin-{}-{side}", std::process::id()));
        let devices = ["a", "b"].map(|side| format!("dl{}{side}", std::process::id()));
        let road = Self { names: Some(names.clone()), relays: Vec::new(), delay: round_trip / 2, number };
        for name in &names {
            ip(&["netns", "add", name])?;
        }
        let [a, b] = &devices;
        ip(&["link", "add", a, "netns", &names[0], "type", "veth", "peer", "name", b, "netns", &names[1]])?;
        for side in [0, 1] {
            let (name, device) = (&names[side], &devices[side]);
            ip(&["-n", name, "link", "set", "lo", "up"])?;
            ip(&["-n", name, "addr", "add", &format!("{}/24", road.address(side)), "dev", device])?;
            ip(&["-n", name, "link", "set", device, "up"])?;
            // A burst of some milliseconds, or the timer of the kernel limits instead of the bucket.
            let (rate, burst) = (format!("{bits}bit"), (bits / 8 / 250).max(16 << 10).to_string());
            let tc = ["netns", "exec", name, "tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", &rate];
            ip(&[&tc[..], &["burst", &burst, "latency", "50ms"]].concat())?;
        }
        Ok(road)
    }

    /// A command of this program for a process on `side`.
    pub(super) fn command(&self, side: usize) -> Result<Command> {
        let own =
            std::env::current_exe().map_err(Failure::because(Exit::Software, "dunlin does not know where it is"))?;
        Ok(match &self.names {
            None => Command::new(own),
            Some(names) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &names[side]]).arg(own);
                command
            }
        })
    }

    /// Where a place on `side` is to listen.
    pub(super) fn listen(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
    }

    /// The way to the place on `side` that listens at `address`, for the other side.
    pub(super) fn to(&mut self, side: usize, address: SocketAddr) -> Result<SocketAddr> {
        if self.names.is_none() {
            return Ok(address);
        }
        let failed = || Failure::because(Exit::Software, "the relay cannot be started");
        let listen = SocketAddr::new(self.address(side), 0);
        let mut command = self.command(side)?;
        command.args(["bench", "live-relay", "--delay-us", &self.delay.as_micros().to_string()]);
        command.args(["--listen", &listen.to_string(), "--to", &address.to_string()]).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(failed())?;
        let stdout = child.stdout.take();
        self.relays.push(child);
        let mut line = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut line).map_err(failed())?;
        }
        line.trim().parse().map_err(Failure::because(Exit::Software, "the relay does not say where it listens"))
    }

    /// Ends the relays of moves that are over.
    pub(super) fn clear(&mut self) {
        for mut relay in self.relays.drain(..) {
            let _ended = (relay.kill(), relay.wait());
        }
    }

    fn address(&self, side: usize) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 213, self.number, 1 + side as u8))
    }
}

impl Drop for Road {
    fn drop(&mut self) {
        self.clear();
        for name in self.names.iter().flatten() {
            // The devices go with the namespaces.
            let _gone = ip(&["netns", "del", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(Failure::because(Exit::Unavailable, "ip cannot be started: install iproute2"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let message = format!("ip {} failed (links of a chosen bandwidth need root): {}", arguments.join(" "), said.trim());
    Err(Failure::new(Exit::Unavailable, message))
}

/// `dunlin bench live-relay`: passes one connection on, each byte `delay` after it came.
pub(crate) fn relay(listen: SocketAddr, to: SocketAddr, delay: Duration) -> Result<()> {
    let failed = || Failure::because(Exit::Unavailable, "the relay cannot pass the connection on");
    let listener = TcpListener::bind(listen).map_err(failed())?;
    println!("{}", listener.local_addr().map_err(failed())?);
    let (near, _) = listener.accept().map_err(failed())?;
    let far = TcpStream::connect(to).map_err(failed())?;
    near.set_nodelay(true).and_then(|()| far.set_nodelay(true)).map_err(failed())?;
    let (near_again, far_again) = (near.try_clone().map_err(failed())?, far.try_clone().map_err(failed())?);
    thread::scope(|scope| {
        scope.spawn(|| pass(&near, &far, delay));
        scope.spawn(|| pass(&far_again, &near_again, delay));
    });
    Ok(())
}

/// Bytes, and when they are to arrive.
type Piece = (Instant, Vec<u8>);

/// Bytes on their way, and whether no more will come.
#[derive(Default)]
struct Flight {
    pieces: Mutex<(VecDeque<Piece>, bool)>,
    changed: Condvar,
}

/// Passes one direction on until it ends.
fn pass(from: &TcpStream, to: &TcpStream, delay: Duration) {
    /// More than the fastest link has on its way in the longest delay.
    const PIECES: usize = 256;
    let flight = Flight::default();
    let (mut reading, mut writing) = (from, to);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut chunk = vec![0; 64 << 10];
            while let Ok(length @ 1..) = reading.read(&mut chunk) {
                let due = Instant::now() + delay;
                let mut pieces = flight.pieces.lock().unwrap_or_else(PoisonError::into_inner);
                while pieces.0.len() >= PIECES && !pieces.1 {
                    pieces = flight.changed.wait(pieces).unwrap_or_else(PoisonError::into_inner);
                }
                pieces.0.push_back((due, chunk[..length].to_vec()));
                flight.changed.notify_all();
            }
            flight.pieces.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
            flight.changed.notify_all();
        });
        loop {
            let mut pieces = flight.pieces.lock().unwrap_or_else(PoisonError::into_inner);
            while pieces.0.is_empty() && !pieces.1 {
                pieces = flight.changed.wait(pieces).unwrap_or_else(PoisonError::into_inner);
            }
            let Some((due, piece)) = pieces.0.pop_front() else { break };
            drop(pieces);
            flight.changed.notify_all();
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if writing.write_all(&piece).is_err() {
                break;
            }
        }
        let _closed = (to.shutdown(Shutdown::Write), from.shutdown(Shutdown::Read));
        flight.pieces.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        flight.changed.notify_all();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_delays_and_keeps_order() {
        let far = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = far.local_addr().unwrap();
        let near = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = near.local_addr().unwrap();
        let delay = Duration::from_millis(30);
        let relay = thread::spawn(move || {
            let (near, _) = near.accept().unwrap();
            let far = TcpStream::connect(to).unwrap();
            thread::scope(|scope| {
                scope.spawn(|| pass(&near, &far, delay));
                scope.spawn(|| pass(&far, &near, delay));
            });
        });
        let mut client = TcpStream::connect(at).unwrap();
        let (mut server, _) = far.accept().unwrap();
        let sent: Vec<u8> = (0..300_000_u32).map(|index| (index / 7) as u8).collect();
        let start = Instant::now();
        client.write_all(&sent).unwrap();
        let mut got = vec![0; sent.len()];
        server.read_exact(&mut got).unwrap();
        assert_eq!(got, sent);
        assert!(start.elapsed() >= delay);
        drop((client, server));
        relay.join().unwrap();
    }
}
