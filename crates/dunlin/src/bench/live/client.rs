//! A client that asks at fixed times, whether answers come or not, and notices what was lost or answered twice.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::orders::clock_us;
use crate::failure::{Exit, Failure, Result};

/// Between two questions.
const INTERVAL: Duration = Duration::from_micros(500);

/// The first line of the service.
const READY: &[u8] = b"ready\n";

/// Asks the service for as long as it lives.
#[derive(Debug)]
pub(super) struct Client {
    shared: Arc<Shared>,
    socket: UnixStream,
    asker: Option<JoinHandle<()>>,
    listener: Option<JoinHandle<String>>,
}

#[derive(Debug, Default)]
struct Shared {
    over: AtomicBool,
    asked: AtomicU64,
    heard: Mutex<Heard>,
}

/// What came back since the last look.
#[derive(Debug, Default, Clone)]
pub(super) struct Heard {
    /// When each question was due, by the clock of the machine in microseconds, and the time until its answer.
    pub(super) waits: Vec<(u64, Duration)>,
    /// Answers that were not the next one.
    pub(super) wrong: u64,
    /// All answers since the start.
    pub(super) answered: u64,
}

impl Heard {
    /// The longest wait.
    pub(super) fn longest(&self) -> Duration {
        self.waits.iter().map(|(_, wait)| *wait).max().unwrap_or_default()
    }

    /// The longest wait for an answer that was due, or came, between these moments.
    pub(super) fn longest_between(&self, from_us: u64, to_us: u64) -> Duration {
        let touches = |(due, wait): &&(u64, Duration)| *due <= to_us && due + wait.as_micros() as u64 >= from_us;
        self.waits.iter().filter(touches).map(|(_, wait)| *wait).max().unwrap_or_default()
    }
}

impl Client {
    /// Waits until the service at the other end of `socket` is ready, and begins to ask.
    pub(super) fn start(socket: UnixStream) -> Result<Self> {
        let failed = "the service cannot be asked";
        let broken = || Failure::because(Exit::Software, failed);
        let (mut reading, mut asking) = (socket.try_clone().map_err(broken())?, socket.try_clone().map_err(broken())?);
        let mut ready = [0; READY.len()];
        reading.read_exact(&mut ready).map_err(broken())?;
        if ready != READY {
            return Err(Failure::new(Exit::Software, "the service does not say that it is ready"));
        }
        let shared = Arc::new(Shared::default());
        let (start, began_us) = (Instant::now(), clock_us());
        let for_asker = shared.clone();
        let asker = thread::Builder::new().name("client".to_owned()).spawn(move || {
            for number in 0_u64.. {
                let due = INTERVAL.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
                if let Some(early) = due.checked_sub(start.elapsed()) {
                    thread::sleep(early);
                }
                if for_asker.over.load(Ordering::SeqCst) {
                    break;
                }
                // Before it is asked, or the answer could come before anybody expects one.
                for_asker.asked.store(number + 1, Ordering::SeqCst);
                if asking.write_all(&number.to_le_bytes()).is_err() {
                    break;
                }
            }
        });
        let for_listener = shared.clone();
        let listener = thread::Builder::new().spawn(move || for_listener.listen(&mut reading, (start, began_us)));
        let (asker, listener) = (Some(asker.map_err(broken())?), Some(listener.map_err(broken())?));
        Ok(Self { shared, socket, asker, listener })
    }

    /// What was heard since the last call.
    pub(super) fn take(&self) -> Heard {
        let mut heard = self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let answered = heard.answered;
        core::mem::replace(&mut *heard, Heard { answered, ..Heard::default() })
    }

    /// Stops asking, waits for the answers that are due, and ends the service's input. Returns the number of
    /// questions, of answers, and the last words of the service.
    pub(super) fn end(mut self) -> (u64, u64, String) {
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(asker) = self.asker.take() {
            let _panicked = asker.join();
        }
        let asked = self.shared.asked.load(Ordering::SeqCst);
        let until = Instant::now() + Duration::from_secs(5);
        let answered = || self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner).answered;
        while answered() < asked && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
        let count = answered();
        let _closed = self.socket.shutdown(std::net::Shutdown::Write);
        let words = self.listener.take().and_then(|listener| listener.join().ok()).unwrap_or_default();
        (asked, count, words)
    }
}

impl Shared {
    /// Takes answers until the service ends, and returns its last words.
    fn listen(&self, socket: &mut UnixStream, (start, began_us): (Instant, u64)) -> String {
        /// Number of the question, and number of answers before.
        const ANSWER: usize = 16;
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        let mut next = 0_u64;
        loop {
            let length = match socket.read(&mut chunk) {
                Ok(0) | Err(_) => break,
                Ok(length) => length,
            };
            let now = start.elapsed();
            bytes.extend_from_slice(&chunk[..length]);
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            let mut used = 0;
            // Once nothing is due any more, what comes are words.
            while next < self.asked.load(Ordering::SeqCst) || !self.over.load(Ordering::SeqCst) {
                let Some(answer) = bytes[used..].first_chunk::<ANSWER>() else { break };
                let word = |half: usize| {
                    let mut word = [0; 8];
                    word.copy_from_slice(&answer[half..half + 8]);
                    u64::from_le_bytes(word)
                };
                let (number, before) = (word(0), word(8));
                heard.wrong += u64::from(number != next || before != next);
                let due = INTERVAL.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
                heard.waits.push((began_us + due.as_micros() as u64, now.saturating_sub(due)));
                heard.answered += 1;
                (next, used) = (next + 1, used + ANSWER);
            }
            bytes.drain(..used);
        }
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_found_by_the_moments_that_they_touch() {
        let wait = |due, micros| (due, Duration::from_micros(micros));
        let heard =
            Heard { waits: vec![wait(0, 900), wait(500, 10), wait(1000, 300), wait(1500, 40)], ..Heard::default() };
        assert_eq!(heard.longest(), Duration::from_micros(900));
        assert_eq!(heard.longest_between(1100, 1200), Duration::from_micros(300));
        assert_eq!(heard.longest_between(1400, 1600), Duration::from_micros(40));
        assert_eq!(heard.longest_between(2000, 3000), Duration::ZERO);
    }

    /// A service that answers, and loses one question.
    #[test]
    fn what_is_lost_is_noticed() {
        let (here, mut there) = UnixStream::pair().unwrap();
        let service = thread::spawn(move || {
            there.write_all(READY).unwrap();
            let mut answered = 0_u64;
            let mut question = [0; 8];
            while there.read_exact(&mut question).is_ok() {
                if u64::from_le_bytes(question) == 5 {
                    continue;
                }
                there.write_all(&question).unwrap();
                there.write_all(&answered.to_le_bytes()).unwrap();
                answered += 1;
            }
            there.write_all(b"the end\n").unwrap();
        });
        let client = Client::start(here).unwrap();
        thread::sleep(Duration::from_millis(50));
        let heard = client.take();
        assert!(heard.wrong > 0 && heard.answered > 6, "{heard:?}");
        assert_eq!(heard.waits.len() as u64, heard.answered);
        drop(heard);
        client.shared.over.store(true, Ordering::SeqCst);
        let (asked, answered, _) = client.end();
        assert_eq!(asked, answered + 1);
        service.join().unwrap();
    }
}
