//! What a service prints, line by line, in files that never grow beyond a bound.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;

use crate::error::NodeError;
use crate::folder;
use crate::model::{Line, Stream};

/// A file is set aside when it has this many bytes.
const FILE_LIMIT: u64 = 1 << 20;
/// Files that are kept, the current one among them.
const FILES: usize = 4;
/// A longer line is written as several.
const LINE_LIMIT: usize = 8 << 10;
/// Lines that a slow follower may be behind before it loses some.
const BACKLOG: usize = 4096;

/// The log of one service. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    current: Mutex<Option<(File, u64)>>,
    lines: broadcast::Sender<Line>,
}

impl Log {
    pub(crate) fn open(folder: &Path) -> Result<Self, NodeError> {
        folder::make(folder)?;
        let (lines, _) = broadcast::channel(BACKLOG);
        Ok(Self { shared: Arc::new(Shared { folder: folder.to_owned(), current: Mutex::new(None), lines }) })
    }

    /// Adds a line. A full disk loses it: a service does not stand still for its log.
    pub(crate) fn write(&self, stream: Stream, text: &str) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_millis() as f64 / 1e3);
        let line = Line { time, stream, text: text.to_owned() };
        let _lost = self.append(&line);
        let _nobody = self.shared.lines.send(line);
    }

    pub(crate) fn note(&self, text: impl AsRef<str>) {
        self.write(Stream::Node, text.as_ref());
    }

    /// The last lines, at most `count`, oldest first.
    pub(crate) fn tail(&self, count: usize) -> Result<Vec<Line>, NodeError> {
        let mut lines = VecDeque::new();
        for number in (0..FILES).rev() {
            let path = self.path(number);
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(NodeError::file(path, "read")(error)),
            };
            // The bound on files bounds this, too.
            for line in BufReader::new(file).lines().map_while(Result::ok) {
                let Ok(line) = serde_json::from_str(&line) else { continue };
                if lines.len() == count {
                    lines.pop_front();
                }
                if count > 0 {
                    lines.push_back(line);
                }
            }
        }
        Ok(lines.into())
    }

    /// Lines from now on.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Line> {
        self.shared.lines.subscribe()
    }

    /// A pipe whose lines come into the log; the program's end of it.
    pub(crate) fn pipe(&self, stream: Stream) -> Result<OwnedFd, NodeError> {
        let (reader, writer) = io::pipe().map_err(NodeError::system("make a pipe"))?;
        let log = self.clone();
        thread::Builder::new()
            .name("dunlin-log".to_owned())
            .stack_size(128 << 10)
            .spawn(move || log.pump(stream, reader))
            .map_err(NodeError::system("start a thread"))?;
        Ok(writer.into())
    }

    fn pump(&self, stream: Stream, reader: impl Read) {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut reader).take(LINE_LIMIT as u64).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    if line.ends_with(b"\n") {
                        line.pop();
                    }
                    self.write(stream, &String::from_utf8_lossy(&line));
                }
            }
        }
    }

    fn append(&self, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let mut current = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|(_, length)| *length >= FILE_LIMIT) {
            *current = None;
            self.rotate()?;
        }
        if current.is_none() {
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(self.path(0))?;
            let length = file.metadata()?.len();
            *current = Some((file, length));
        }
        if let Some((file, length)) = current.as_mut() {
            file.write_all(&bytes)?;
            *length += bytes.len() as u64;
        }
        Ok(())
    }

    fn rotate(&self) -> io::Result<()> {
        for number in (0..FILES - 1).rev() {
            match fs::rename(self.path(number), self.path(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn path(&self, number: usize) -> PathBuf {
        self.shared.folder.join(if number == 0 { "log".to_owned() } else { format!("log.{number}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_bounded_and_keeps_its_end() {
        let folder = std::env::temp_dir().join(format!("dunlin-log-{}", std::process::id()));
        let log = Log::open(&folder).unwrap();
        let long = "x".repeat(4000);
        for number in 0..2000 {
            log.write(Stream::Out, &format!("{number} {long}"));
        }
        let bytes: u64 = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes < FILES as u64 * (FILE_LIMIT + LINE_LIMIT as u64), "{bytes}");
        let tail = log.tail(3).unwrap();
        let numbers: Vec<_> = tail.iter().map(|line| line.text.split(' ').next().unwrap()).collect();
        assert_eq!(numbers, ["1997", "1998", "1999"]);
        assert_eq!(log.tail(0).unwrap(), []);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_program_that_prints_no_line_ends_does_not_fill_memory() {
        let folder = std::env::temp_dir().join(format!("dunlin-log-line-{}", std::process::id()));
        let log = Log::open(&folder).unwrap();
        log.pump(Stream::Err, &b"ab\n\xff\n"[..]);
        log.pump(Stream::Out, &vec![b'y'; 3 * LINE_LIMIT][..]);
        let tail = log.tail(100).unwrap();
        let lengths: Vec<_> = tail.iter().map(|line| line.text.len()).collect();
        assert_eq!(lengths, [2, 3, LINE_LIMIT, LINE_LIMIT, LINE_LIMIT]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
