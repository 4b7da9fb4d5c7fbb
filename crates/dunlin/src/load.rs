//! Clients that check every reply: an open loop of `INCR`, each connection on a counter of its own. Request k of a
//! connection must be answered by k: a larger number means that a request had its effect twice, a smaller one that an
//! effect was lost. Requests are sent when they are due, whether earlier ones are answered or not, and waiting is counted
//! from the moment at which they were due, so that a pause is seen by everybody whom it meets.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Serialize;

/// How long the last replies may take.
const LAST_REPLIES: Duration = Duration::from_secs(10);
/// Samples between two looks; what is beyond is counted, but not looked at.
const SAMPLES: usize = 4 << 20;

/// Clients at work.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    writer: JoinHandle<()>,
    readers: Vec<JoinHandle<Counted>>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    connections: u64,
    interval: Duration,
    stop: AtomicBool,
    sent: Vec<AtomicU64>,
    broken: Vec<AtomicBool>,
    samples: Mutex<Vec<Sample>>,
}

/// A reply.
#[derive(Debug, Clone, Copy)]
struct Sample {
    due: Duration,
    came: Duration,
}

/// What one connection saw.
#[derive(Debug, Default)]
struct Counted {
    replies: u64,
    lost: u64,
    doubled: u64,
    nonsense: u64,
    waits: Histogram,
}

/// What clients saw between two looks.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Seen {
    pub(crate) replies: usize,
    /// The longest wait for a reply, from the moment at which its request was due.
    pub(crate) longest_wait_ms: f64,
    /// The longest time without any reply.
    pub(crate) longest_silence_ms: f64,
}

/// What clients saw altogether.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Totals {
    pub(crate) connections: u64,
    pub(crate) requests: u64,
    pub(crate) replies: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) nonsense: u64,
    pub(crate) broken_connections: u64,
    pub(crate) wait_p50_ms: f64,
    pub(crate) wait_p99_ms: f64,
    pub(crate) wait_max_ms: f64,
}

impl Totals {
    /// Whether every request had its effect exactly once and was answered.
    pub(crate) fn is_exact(&self) -> bool {
        self.replies == self.requests && self.lost + self.doubled + self.nonsense + self.broken_connections == 0
    }
}

/// The counter of a connection.
pub(crate) fn counter(connection: u64) -> String {
    format!("load:{connection}")
}

impl Load {
    /// Starts `connections` clients that send `rate` requests a second together.
    pub(crate) fn start(address: SocketAddr, connections: u64, rate: u64) -> io::Result<Self> {
        let mut streams = Vec::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        let count = streams.len();
        let shared = Arc::new(Shared {
            start: Instant::now(),
            connections,
            interval: Duration::from_nanos(1_000_000_000 / rate.max(1)),
            stop: AtomicBool::new(false),
            sent: (0..count).map(|_| AtomicU64::new(0)).collect(),
            broken: (0..count).map(|_| AtomicBool::new(false)).collect(),
            samples: Mutex::new(Vec::new()),
        });
        let mut readers = Vec::new();
        for (number, stream) in streams.iter().enumerate() {
            let (stream, shared) = (stream.try_clone()?, shared.clone());
            readers.push(
                thread::Builder::new().name("load-reader".to_owned()).spawn(move || read(&shared, number, stream))?,
            );
        }
        let writing = shared.clone();
        let writer = thread::Builder::new().name("load-writer".to_owned()).spawn(move || write(&writing, streams))?;
        Ok(Self { shared, writer, readers })
    }

    /// Since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.shared.start.elapsed()
    }

    /// What was seen since the last look.
    pub(crate) fn look(&self) -> Seen {
        let mut samples = std::mem::take(&mut *self.shared.samples.lock().unwrap_or_else(PoisonError::into_inner));
        samples.sort_by_key(|sample| sample.came);
        let wait = samples.iter().map(|sample| sample.came.saturating_sub(sample.due)).max().unwrap_or_default();
        let silence = samples.windows(2).map(|pair| pair[1].came - pair[0].came).max().unwrap_or_default();
        Seen {
            replies: samples.len(),
            longest_wait_ms: wait.as_secs_f64() * 1e3,
            longest_silence_ms: silence.as_secs_f64() * 1e3,
        }
    }

    /// How many requests were sent and answered so far.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.iter().map(|sent| sent.load(Ordering::SeqCst)).sum()
    }

    /// How many connections were cut off so far.
    pub(crate) fn broken(&self) -> u64 {
        self.shared.broken.iter().map(|broken| u64::from(broken.load(Ordering::SeqCst))).sum()
    }

    /// Ends: no more requests, and waits for the last replies.
    pub(crate) fn finish(self) -> Totals {
        self.shared.stop.store(true, Ordering::SeqCst);
        // A thread that panicked is a connection that broke.
        let _panicked = self.writer.join();
        let mut totals = Totals { connections: self.shared.connections, ..Totals::default() };
        let mut waits = Histogram::default();
        for (number, reader) in self.readers.into_iter().enumerate() {
            let sent = self.shared.sent[number].load(Ordering::SeqCst);
            let counted = reader.join().unwrap_or_default();
            totals.requests += sent;
            totals.replies += counted.replies;
            totals.lost += counted.lost + sent.saturating_sub(counted.replies);
            totals.doubled += counted.doubled;
            totals.nonsense += counted.nonsense;
            totals.broken_connections += u64::from(self.shared.broken[number].load(Ordering::SeqCst));
            waits.add(&counted.waits);
        }
        totals.wait_p50_ms = waits.percentile(0.5);
        totals.wait_p99_ms = waits.percentile(0.99);
        totals.wait_max_ms = waits.percentile(1.0);
        totals
    }
}

fn write(shared: &Shared, mut streams: Vec<TcpStream>) {
    let requests: Vec<String> = (0..shared.connections).map(|number| format!("INCR {}\r\n", counter(number))).collect();
    let mut next: u64 = 0;
    while !shared.stop.load(Ordering::SeqCst) {
        let due = shared.due(next);
        let now = shared.start.elapsed();
        if due > now {
            thread::sleep(due - now);
        }
        let number = (next % shared.connections) as usize;
        next += 1;
        if shared.broken[number].load(Ordering::SeqCst) {
            continue;
        }
        shared.sent[number].fetch_add(1, Ordering::SeqCst);
        if streams[number].write_all(requests[number].as_bytes()).is_err() {
            shared.broken[number].store(true, Ordering::SeqCst);
        }
    }
}

fn read(shared: &Shared, number: usize, stream: TcpStream) -> Counted {
    let mut counted = Counted::default();
    let mut shift: i128 = 0;
    let mut line = String::new();
    // So that the end is noticed.
    let _no_timeouts = stream.set_read_timeout(Some(Duration::from_millis(200)));
    let mut lines = BufReader::new(stream);
    let mut last = None;
    loop {
        if shared.stop.load(Ordering::SeqCst) {
            let stopped = *last.get_or_insert_with(Instant::now);
            // The writer may be at its last request still.
            let all = counted.replies >= shared.sent[number].load(Ordering::SeqCst);
            if (all && stopped.elapsed() > shared.interval * 4) || stopped.elapsed() > LAST_REPLIES {
                return counted;
            }
        }
        match lines.read_line(&mut line) {
            Ok(0) => {
                shared.broken[number].store(true, Ordering::SeqCst);
                return counted;
            }
            // What has come of a line stays in it.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
            Err(_) => {
                shared.broken[number].store(true, Ordering::SeqCst);
                return counted;
            }
            Ok(_) if !line.ends_with('\n') => continue,
            Ok(_) => {}
        }
        let came = shared.start.elapsed();
        let due = shared.due(counted.replies * shared.connections + number as u64);
        counted.replies += 1;
        counted.waits.count(came.saturating_sub(due));
        match line.trim_end().strip_prefix(':').and_then(|value| value.parse::<u64>().ok()) {
            Some(value) => {
                let off = i128::from(value) - (i128::from(counted.replies) + shift);
                shift += off;
                let by = u64::try_from(off.unsigned_abs()).unwrap_or(u64::MAX);
                *(if off < 0 { &mut counted.lost } else { &mut counted.doubled }) += by;
            }
            None => counted.nonsense += 1,
        }
        line.clear();
        let mut samples = shared.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() < SAMPLES {
            samples.push(Sample { due, came });
        }
    }
}

impl Shared {
    fn due(&self, request: u64) -> Duration {
        Duration::from_nanos(request.saturating_mul(self.interval.as_nanos() as u64))
    }
}

/// Times in steps of at most 3 %.
#[derive(Debug, Default)]
struct Histogram(std::collections::BTreeMap<u32, u64>);

/// Steps for each doubling.
const STEPS: f64 = 24.0;

impl Histogram {
    fn count(&mut self, time: Duration) {
        let microseconds = (time.as_secs_f64() * 1e6).max(1.0);
        *self.0.entry((microseconds.log2() * STEPS).ceil() as u32).or_default() += 1;
    }

    fn add(&mut self, other: &Self) {
        for (step, count) in &other.0 {
            *self.0.entry(*step).or_default() += count;
        }
    }

    /// In milliseconds; the upper end of the step.
    fn percentile(&self, part: f64) -> f64 {
        let all: u64 = self.0.values().sum();
        let mut left = (all as f64 * part).ceil() as u64;
        for (step, count) in &self.0 {
            left = left.saturating_sub(*count);
            if left == 0 {
                return (f64::from(*step) / STEPS).exp2() / 1e3;
            }
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers each connection's requests with these numbers, then 1 more each time.
    fn server(first: &'static [u64]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let requests = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                    for (number, _) in requests.enumerate() {
                        let beyond = (number + 1 - first.len().min(number + 1)) as u64;
                        let value = first.get(number).copied().unwrap_or(first.last().unwrap() + beyond);
                        if stream.write_all(format!(":{value}\r\n").as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    fn run(first: &'static [u64]) -> Totals {
        let load = Load::start(server(first), 2, 400).unwrap();
        thread::sleep(Duration::from_millis(300));
        let seen = load.look();
        assert!(seen.replies > 20 && seen.longest_wait_ms > 0.0, "{seen:?}");
        load.finish()
    }

    #[test]
    fn a_server_that_counts_right_loses_nothing() {
        let totals = run(&[1]);
        assert!(totals.is_exact(), "{totals:?}");
        assert!(totals.requests >= 60, "{totals:?}");
    }

    #[test]
    fn what_is_lost_and_doubled_is_counted_exactly() {
        // The third request of each connection has its effect three times, then four effects are lost.
        let totals = run(&[1, 2, 5, 6, 3]);
        assert_eq!((totals.doubled, totals.lost, totals.nonsense), (4, 8, 0), "{totals:?}");
        assert!(!totals.is_exact());
    }

    #[test]
    fn percentiles() {
        let mut histogram = Histogram::default();
        for milliseconds in 1..=100 {
            histogram.count(Duration::from_millis(milliseconds));
        }
        for (part, expected) in [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            let found = histogram.percentile(part);
            assert!((expected..expected * 1.03).contains(&found), "{part}: {found}");
        }
        assert_eq!(Histogram::default().percentile(0.5), 0.0);
    }
}
