//! Standard streams. State: which descriptors stand for them, input that has not been read, whether more follows, and
//! how much has been put out.
//!
//! A program reads from its state first and then from the host, of which nothing is read ahead. When its input has
//! ended, it has ended for good: after a move, the new host's input is not looked at. Output goes straight to the
//! host, so what a snapshot has to carry is nothing.

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd};

use dunlin_snapshot::HostSection;
use rustix::event::PollFlags;
use rustix::io::ReadWriteFlags;

use crate::codec::{CodecError, Reader, Writer};
use crate::config::{Input, Limits, Output};
use crate::errno::Errno;
use crate::error::Error;
use crate::memory::Memory;
use crate::preview1::Break;
use crate::preview1::descriptors::{DescriptorV1, Object, Table};
use crate::preview1::files::filetype;
use crate::sections::{Frozen, Sections, kind};
use crate::wait::Waker;

/// How much a pipe that is ready for writing takes without blocking.
const PIPE_BUF: usize = 4096;

/// The standard streams at a freeze.
struct StreamsV1 {
    open: Vec<(DescriptorV1, StreamV1)>,
    unread: Vec<u8>,
    ended: bool,
    written: u64,
}

#[derive(Clone, Copy)]
enum StreamV1 {
    Stdin,
    Stdout,
    Stderr,
}

impl Frozen for StreamsV1 {
    const KIND: u16 = kind::STREAMS;
    const VERSION: u16 = 1;

    fn write(&self, writer: &mut Writer) {
        writer.list(&self.open, |(descriptor, stream), writer| {
            descriptor.write(writer);
            writer.u8(*stream as u8);
        });
        writer.bytes(&self.unread);
        writer.flag(self.ended);
        writer.u64(self.written);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let open = reader.list(|reader| {
            let descriptor = DescriptorV1::read(reader)?;
            let stream = match reader.u8()? {
                0 => StreamV1::Stdin,
                1 => StreamV1::Stdout,
                2 => StreamV1::Stderr,
                _ => return Err(reader.invalid("stream")),
            };
            Ok((descriptor, stream))
        })?;
        let unread = reader.bytes()?.to_vec();
        Ok(Self { open, unread, ended: reader.flag("end of input")?, written: reader.u64()? })
    }
}

/// A program's standard streams.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Input that comes before the host's.
    unread: VecDeque<u8>,
    /// Whether nothing follows on `unread`, as far as is known.
    ended: bool,
    /// The host's input.
    input: Input,
    pub(crate) stdout: Sink,
    pub(crate) stderr: Sink,
    /// Bytes put out so far.
    written: u64,
}

/// Where output goes.
#[derive(Debug)]
pub(crate) struct Sink {
    output: Output,
    /// Whether it is a regular file, which is always ready.
    regular: bool,
    inherited: fn() -> BorrowedFd<'static>,
}

impl Streams {
    /// Streams at descriptors 0 to 2.
    pub(crate) fn new(stdin: Input, stdout: Output, stderr: Output, table: &mut Table) -> Result<Self, Error> {
        for object in [Object::Stdin, Object::Stdout, Object::Stderr] {
            table.insert_initial(object)?;
        }
        let (unread, input, ended) = match stdin {
            Input::Null => (Vec::new(), Input::Null, true),
            Input::Bytes(bytes) => (bytes, Input::Null, true),
            input => (Vec::new(), input, false),
        };
        Ok(Self::with(unread, ended, 0, input, stdout, stderr))
    }

    fn with(unread: Vec<u8>, ended: bool, written: u64, input: Input, stdout: Output, stderr: Output) -> Self {
        Self {
            unread: unread.into(),
            ended,
            input,
            stdout: Sink::new(stdout, rustix::stdio::stdout),
            stderr: Sink::new(stderr, rustix::stdio::stderr),
            written,
        }
    }

    pub(crate) fn freeze(&self, table: &Table) -> HostSection {
        let open = table.iter().filter_map(|(descriptor, object)| {
            let stream = match object {
                Object::Stdin => StreamV1::Stdin,
                Object::Stdout => StreamV1::Stdout,
                Object::Stderr => StreamV1::Stderr,
                _ => return None,
            };
            Some((descriptor, stream))
        });
        let unread = self.unread.iter().copied().collect();
        StreamsV1 { open: open.collect(), unread, ended: self.ended, written: self.written }.section()
    }

    pub(crate) fn thaw(
        sections: &Sections<'_>,
        stdin: Input,
        stdout: Output,
        stderr: Output,
        table: &mut Table,
    ) -> Result<Self, Error> {
        let StreamsV1 { open, unread, ended, written } = sections.required()?;
        for (descriptor, stream) in open {
            let object = match stream {
                StreamV1::Stdin => Object::Stdin,
                StreamV1::Stdout => Object::Stdout,
                StreamV1::Stderr => Object::Stderr,
            };
            table.insert_at(descriptor, object)?;
        }
        // Bytes given as input are state and belong to the program that began with them.
        let input = match stdin {
            input @ (Input::Inherit | Input::Fd(_)) if !ended => input,
            _ => Input::Null,
        };
        Ok(Self::with(unread, ended, written, input, stdout, stderr))
    }

    /// The host's input, if there is one.
    fn host_input(&self) -> Option<BorrowedFd<'_>> {
        match &self.input {
            Input::Inherit => Some(rustix::stdio::stdin()),
            Input::Fd(fd) => Some(fd.as_fd()),
            Input::Null | Input::Bytes(_) => None,
        }
    }

    /// What `poll_oneoff` has to wait for before input can be read: `None` when it can be, with the number of bytes
    /// there are (0 at the end).
    pub(crate) fn poll_input(&self) -> Result<BorrowedFd<'_>, u64> {
        match self.host_input() {
            Some(fd) if self.unread.is_empty() => Ok(fd),
            _ => Err(self.unread.len() as u64),
        }
    }

    pub(crate) fn input_filetype(&self) -> u8 {
        filetype_of(self.host_input())
    }

    pub(crate) fn read(
        &mut self,
        memory: &mut Memory<'_>,
        vectors: &[Range<usize>],
        nonblocking: bool,
        waker: &Waker,
    ) -> Result<usize, Break> {
        let mut done = 0;
        if self.unread.is_empty()
            && let Some(fd) = self.host_input()
        {
            for (nth, vector) in vectors.iter().enumerate() {
                match waker.wait_for(fd, PollFlags::IN, nonblocking || nth > 0) {
                    Err(_) if nth > 0 => break,
                    waited => waited?,
                }
                let buffer = memory.at_mut(vector);
                let read = match rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut *buffer)) {
                    Err(_) if nth > 0 => break,
                    read => read.map_err(Errno::from)?,
                };
                done += read;
                if read < vector.len() {
                    break;
                }
            }
            if !vectors.is_empty() {
                self.ended = done == 0;
            }
            return Ok(done);
        }
        for vector in vectors {
            done += take(&mut self.unread, memory.at_mut(vector));
        }
        Ok(done)
    }

    /// Writes to standard output, or standard error.
    pub(crate) fn write(
        &mut self,
        error: bool,
        memory: &Memory<'_>,
        vectors: &[Range<usize>],
        nonblocking: bool,
        waker: &Waker,
        limits: &Limits,
    ) -> Result<usize, Break> {
        let sink = if error { &self.stderr } else { &self.stdout };
        let mut room = limits.output_bytes.map_or(u64::MAX, |limit| limit.saturating_sub(self.written));
        let mut done = 0;
        for vector in vectors {
            let mut bytes = memory.at(vector);
            while !bytes.is_empty() {
                let permitted = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
                let written = if permitted == 0 {
                    Err(Errno::Nospc.into())
                } else {
                    sink.write(&bytes[..permitted], nonblocking, waker)
                };
                match written {
                    // What has been put out is reported; the error comes again with the rest.
                    Err(_) if done > 0 => return Ok(done),
                    Err(error) => return Err(error),
                    Ok(written) => {
                        bytes = &bytes[written..];
                        done += written;
                        room -= written as u64;
                        self.written = self.written.saturating_add(written as u64);
                    }
                }
            }
        }
        Ok(done)
    }
}

impl Sink {
    fn new(output: Output, inherited: fn() -> BorrowedFd<'static>) -> Self {
        let mut sink = Self { output, regular: false, inherited };
        sink.regular = sink.host_fd().is_some_and(|fd| filetype_of_fd(fd) == filetype::REGULAR);
        sink
    }

    /// The host's output, if there is one that has to be waited for.
    pub(crate) fn host_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.output {
            Output::Inherit => Some((self.inherited)()),
            Output::Fd(fd) => Some(fd.as_fd()),
            Output::Null | Output::Capture(_) => None,
        }
    }

    pub(crate) fn filetype(&self) -> u8 {
        filetype_of(self.host_fd())
    }

    /// Writes at least one byte of `bytes`, which is not empty.
    fn write(&self, bytes: &[u8], nonblocking: bool, waker: &Waker) -> Result<usize, Break> {
        use rustix::io::Errno as Os;
        if let Output::Capture(capture) = &self.output {
            capture.append(bytes);
        }
        let Some(fd) = self.host_fd() else { return Ok(bytes.len()) };
        let os = |error: Os| Break::from(Errno::from(error));
        if self.regular {
            return rustix::io::retry_on_intr(|| rustix::io::write(fd, bytes)).map_err(os);
        }
        loop {
            // Without blocking, whatever the mode of the descriptor, which other processes share. The offset -1 stands
            // for the present position.
            let slices = [std::io::IoSlice::new(bytes)];
            match rustix::io::pwritev2(fd, &slices, u64::MAX, ReadWriteFlags::NOWAIT) {
                Ok(written) if written > 0 => return Ok(written),
                Err(error @ (Os::PIPE | Os::IO | Os::BADF | Os::CONNRESET)) => return Err(os(error)),
                // Full, or a kind of file that knows no such writing: then little enough not to block.
                _ => {}
            }
            waker.wait_for(fd, PollFlags::OUT, nonblocking)?;
            match rustix::io::write(fd, &bytes[..bytes.len().min(PIPE_BUF)]) {
                Ok(0) | Err(Os::INTR | Os::AGAIN) => {}
                Ok(written) => return Ok(written),
                Err(error) => return Err(os(error)),
            }
        }
    }
}

/// Moves as much as fits.
pub(crate) fn take(from: &mut VecDeque<u8>, to: &mut [u8]) -> usize {
    let len = from.len().min(to.len());
    for (byte, unread) in to.iter_mut().zip(from.drain(..len)) {
        *byte = unread;
    }
    len
}

/// What a standard stream shows itself as: only whether it is a terminal, as in Wasmtime.
fn filetype_of(fd: Option<BorrowedFd<'_>>) -> u8 {
    if fd.is_some_and(|fd| fd.is_terminal()) { filetype::CHARACTER_DEVICE } else { filetype::UNKNOWN }
}

fn filetype_of_fd(fd: BorrowedFd<'_>) -> u8 {
    let regular = rustix::fs::fstat(fd)
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile);
    if regular { filetype::REGULAR } else { filetype::UNKNOWN }
}
