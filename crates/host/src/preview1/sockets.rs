//! Listeners and connections over TCP. State: which descriptors stand for them, which listener of the configuration
//! each is, and each connection's unread bytes.
//!
//! A listener is the one of the same place in the new host's configuration. [`Connections`] says what becomes of
//! a connection; carrying one on needs a [`Carrier`], which relays its bytes between hosts, outside of the program.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use dunlin_snapshot::HostSection;
use rustix::event::PollFlags;
use rustix::net::SocketFlags;

use crate::carrier::{CarriedConnection, Carrier, ConnectionId};
use crate::codec::{CodecError, Reader, Writer};
use crate::config::{Connections, Limits, Listen};
use crate::errno::Errno;
use crate::error::Error;
use crate::memory::{self, Memory};
use crate::preview1::descriptors::{Common, Descriptor, DescriptorV1, Object, Table};
use crate::preview1::fdstat::flags;
use crate::preview1::streams::take;
use crate::preview1::{Break, Params, rights};
use crate::sections::{Frozen, Sections, kind};
use crate::wait::Waker;
use crate::world::World;

/// Flags of `sock_recv`.
const PEEK: u32 = 1;
const WAIT_ALL: u32 = 2;

/// Flags of `sock_shutdown`.
const SHUT_READ: u32 = 1;
const SHUT_WRITE: u32 = 2;

/// How much is read at once into a connection's own buffer.
const CHUNK: usize = 64 * 1024;

/// A listener.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Which of the configuration's.
    index: u32,
    socket: TcpListener,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// `None` once it was ended by a move.
    stream: Option<TcpStream>,
    /// Bytes that have arrived here and that the program has not read.
    unread: VecDeque<u8>,
    /// Whether the peer has said that nothing follows on `unread`.
    ended: bool,
    /// Who carries it on when the program moves, if somebody does.
    carried: Option<Carried>,
}

/// What is known about a connection that can move.
#[derive(Debug)]
struct Carried {
    id: ConnectionId,
    /// The listener that it came to.
    listener: u32,
    carrier: Arc<dyn Carrier>,
    /// Whether the program has shut its receiving direction down.
    shut_read: bool,
    /// Whether the program has shut its sending direction down.
    shut_write: bool,
}

/// Opens the configured listeners.
pub(crate) fn listen(offered: &[Listen], table: &mut Table) -> Result<(), Error> {
    for (index, listen) in (0..).zip(offered) {
        table.insert_initial(Object::Listener(Listener::new(index, listen)?))?;
    }
    Ok(())
}

/// The addresses of the open listeners.
pub(crate) fn listening(table: &Table) -> Vec<SocketAddr> {
    table
        .iter()
        .filter_map(|(_, object)| match object {
            Object::Listener(listener) => listener.socket.local_addr().ok(),
            _ => None,
        })
        .collect()
}

/// The sockets at a freeze.
pub(crate) struct SocketsV1(Vec<(DescriptorV1, SocketV1)>);

impl SocketsV1 {
    /// How many listeners there must be for those that are open.
    pub(crate) fn listeners(&self) -> u32 {
        let indices = self.0.iter().filter_map(|(_, socket)| match socket {
            SocketV1::Listener(index) => Some(index.saturating_add(1)),
            SocketV1::Connection { .. } => None,
        });
        indices.max().unwrap_or(0)
    }
}

enum SocketV1 {
    /// Which of the configuration's listeners.
    Listener(u32),
    /// What can still be read, and whether the peer had ended the connection behind it.
    Connection { unread: Vec<u8>, ended: bool },
}

impl Frozen for SocketsV1 {
    const KIND: u16 = kind::SOCKETS;
    const VERSION: u16 = 1;

    fn write(&self, writer: &mut Writer) {
        writer.list(&self.0, |(descriptor, socket), writer| {
            descriptor.write(writer);
            match socket {
                SocketV1::Listener(index) => {
                    writer.flag(false);
                    writer.u32(*index);
                }
                SocketV1::Connection { unread, ended } => {
                    writer.flag(true);
                    writer.bytes(unread);
                    writer.flag(*ended);
                }
            }
        });
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let sockets = reader.list(|reader| {
            let descriptor = DescriptorV1::read(reader)?;
            let socket = if reader.flag("kind of socket")? {
                let unread = reader.bytes()?.to_vec();
                SocketV1::Connection { unread, ended: reader.flag("end of connection")? }
            } else {
                SocketV1::Listener(reader.u32()?)
            };
            Ok((descriptor, socket))
        })?;
        Ok(Self(sockets))
    }
}

/// Connections at a freeze that are carried on.
struct CarriedV1(Vec<(DescriptorV1, ConnectionV1)>);

struct ConnectionV1 {
    id: u128,
    listener: u32,
    /// What has been read from the socket and not by the program.
    unread: Vec<u8>,
    /// Whether the peer had ended its direction behind it.
    ended: bool,
    shut_read: bool,
    shut_write: bool,
}

impl Frozen for CarriedV1 {
    const KIND: u16 = kind::CARRIED;
    const VERSION: u16 = 1;

    fn write(&self, writer: &mut Writer) {
        writer.list(&self.0, |(descriptor, connection), writer| {
            let ConnectionV1 { id, listener, unread, ended, shut_read, shut_write } = connection;
            descriptor.write(writer);
            writer.u128(*id);
            writer.u32(*listener);
            writer.bytes(unread);
            writer.flag(*ended);
            writer.flag(*shut_read);
            writer.flag(*shut_write);
        });
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let connections = reader.list(|reader| {
            let descriptor = DescriptorV1::read(reader)?;
            let connection = ConnectionV1 {
                id: reader.u128()?,
                listener: reader.u32()?,
                unread: reader.bytes()?.to_vec(),
                ended: reader.flag("end of connection")?,
                shut_read: reader.flag("end of receiving")?,
                shut_write: reader.flag("end of sending")?,
            };
            Ok((descriptor, connection))
        })?;
        Ok(Self(connections))
    }
}

/// The section of connections that are carried on, if there are any.
pub(crate) fn freeze_carried(
    table: &Table,
    policy: Connections,
    limits: &Limits,
) -> Result<Option<HostSection>, Error> {
    let mut connections = Vec::new();
    for (descriptor, object) in table.iter() {
        let Object::Connection(connection) = object else { continue };
        let Some(carried) = connection.carried_by(policy) else { continue };
        if connection.unread.len() as u64 > limits.carried_bytes {
            let why = format!("it has more than {} unread bytes, the limit", limits.carried_bytes);
            return Err(Error::NotMovable { fd: descriptor.fd, why });
        }
        let frozen = ConnectionV1 {
            id: u128::from_le_bytes(carried.id.0),
            listener: carried.listener,
            unread: connection.unread.iter().copied().collect(),
            ended: connection.ended,
            shut_read: carried.shut_read,
            shut_write: carried.shut_write,
        };
        connections.push((descriptor, frozen));
    }
    Ok((!connections.is_empty()).then(|| CarriedV1(connections).section()))
}

/// What a snapshot says about connections that are carried on.
pub(crate) struct Arriving(CarriedV1);

impl Arriving {
    pub(crate) fn count(&self) -> u32 {
        self.0.0.len() as u32
    }
}

/// Reads the section of [`freeze_carried`].
pub(crate) fn arriving(sections: &Sections<'_>) -> Result<Arriving, Error> {
    Ok(Arriving(sections.optional()?.unwrap_or(CarriedV1(Vec::new()))))
}

/// Opens what [`arriving`] found.
pub(crate) fn thaw_carried(
    Arriving(CarriedV1(connections)): Arriving,
    carrier: Option<&Arc<dyn Carrier>>,
    table: &mut Table,
) -> Result<(), Error> {
    for (descriptor, connection) in connections {
        let ConnectionV1 { id, listener, unread, ended, shut_read, shut_write } = connection;
        let id = ConnectionId(id.to_le_bytes());
        let mut connection =
            Connection { stream: None, unread: unread.into(), ended: ended || shut_read, carried: None };
        if let Some(carrier) = carrier
            && let Some(stream) = carrier.carried(id, listener).ok().and_then(|socket| carried_on(socket, shut_write))
        {
            connection.stream = Some(stream);
            let carrier = carrier.clone();
            connection.carried = Some(Carried { id, listener, carrier, shut_read, shut_write });
        }
        table.insert_at(descriptor, Object::Connection(connection))?;
    }
    Ok(())
}

/// A connection's new socket, in the state in which the old one was.
fn carried_on(socket: std::os::fd::OwnedFd, shut_write: bool) -> Option<TcpStream> {
    // Whatever kind of stream it is: nothing of TCP's own is used.
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(true).ok()?;
    if shut_write {
        stream.shutdown(Shutdown::Write).ok()?;
    }
    Some(stream)
}

/// The connections that are carried on.
pub(crate) fn carried_connections(table: &Table, policy: Connections) -> Vec<CarriedConnection> {
    let connections = table.iter().filter_map(|(_, object)| match object {
        Object::Connection(connection) => Some((connection, connection.carried_by(policy)?)),
        _ => None,
    });
    connections
        .map(|(connection, carried)| CarriedConnection {
            id: carried.id,
            ended: connection.ended || carried.shut_read,
            shut: carried.shut_write,
        })
        .collect()
}

/// Ends all connections.
pub(crate) fn close_all(table: &mut Table) {
    for (_, object) in table.iter_mut() {
        if let Object::Connection(connection) = object {
            connection.close();
        }
    }
}

/// The section, if there is anything to say.
pub(crate) fn freeze(table: &mut Table, policy: Connections, limits: &Limits) -> Result<Option<HostSection>, Error> {
    let mut sockets = Vec::new();
    for (descriptor, object) in table.iter_mut() {
        let socket = match object {
            Object::Listener(listener) => SocketV1::Listener(listener.index),
            Object::Connection(connection) => {
                if connection.carried_by(policy).is_some() {
                    continue;
                }
                if connection.stream.is_some() {
                    if policy == Connections::Refuse {
                        let why = "it is an open connection; wait until it ends, or configure connections to be \
                                   closed by a move";
                        return Err(Error::NotMovable { fd: descriptor.fd, why: why.to_owned() });
                    }
                    connection.collect(descriptor.fd, limits)?;
                }
                SocketV1::Connection { unread: connection.unread.iter().copied().collect(), ended: connection.ended }
            }
            _ => continue,
        };
        sockets.push((descriptor, socket));
    }
    Ok((!sockets.is_empty()).then(|| SocketsV1(sockets).section()))
}

pub(crate) fn thaw(
    sections: &Sections<'_>,
    offered: &[Listen],
    table: &mut Table,
    missing: &mut Vec<String>,
) -> Result<(), Error> {
    let SocketsV1(sockets) = sections.optional()?.unwrap_or(SocketsV1(Vec::new()));
    for (descriptor, socket) in sockets {
        let object = match socket {
            SocketV1::Connection { unread, ended } => {
                Object::Connection(Connection { stream: None, unread: unread.into(), ended, carried: None })
            }
            SocketV1::Listener(index) => match offered.get(index as usize) {
                Some(listen) => Object::Listener(Listener::new(index, listen)?),
                None => {
                    missing.push(format!("listener {} (offer one more address to listen on)", u64::from(index) + 1));
                    continue;
                }
            },
        };
        table.insert_at(descriptor, object)?;
    }
    Ok(())
}

impl Listener {
    fn new(index: u32, listen: &Listen) -> Result<Self, Error> {
        let (socket, address) = match listen {
            Listen::Address(address) => (TcpListener::bind(address), address.clone()),
            Listen::Bound(socket) => {
                (socket.try_clone().map(TcpListener::from), format!("the offered listener {}", u64::from(index) + 1))
            }
        };
        let ready = socket.and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        ready.map(|socket| Self { index, socket }).map_err(|source| Error::Listen { address, source })
    }

    /// Takes a connection, of whatever kind of stream the listener is.
    fn accept(&self) -> std::io::Result<TcpStream> {
        let socket = rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        Ok(TcpStream::from(socket))
    }

    pub(crate) fn host_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Connection {
    /// How it is carried on, if it is.
    fn carried_by(&self, policy: Connections) -> Option<&Carried> {
        self.carried.as_ref().filter(|_| policy == Connections::Carry)
    }

    /// The program does away with it. Others may have its socket too, so closing it would tell the peer nothing.
    pub(crate) fn close(&mut self) {
        if let Some(Carried { id, carrier, .. }) = self.carried.take()
            && let Some(stream) = self.stream.take()
        {
            // It fails only when the peer knows already.
            let _ = stream.shutdown(Shutdown::Write);
            drop(stream);
            carrier.closed(id);
        }
    }

    /// The host's socket, unless a move has ended the connection.
    pub(crate) fn host_fd(&self) -> Option<BorrowedFd<'_>> {
        self.stream.as_ref().map(TcpStream::as_fd)
    }

    /// As [`crate::preview1::streams::Streams::poll_input`].
    pub(crate) fn poll_input(&self) -> Result<BorrowedFd<'_>, u64> {
        match self.host_fd() {
            Some(fd) if self.unread.is_empty() && !self.ended => Ok(fd),
            _ => Err(self.unread.len() as u64),
        }
    }

    /// Reads what there is, at least one byte unless the connection has ended.
    pub(crate) fn read(
        &mut self,
        memory: &mut Memory<'_>,
        vectors: &[Range<usize>],
        nonblocking: bool,
        waker: &Waker,
    ) -> Result<usize, Break> {
        let Some(first) = vectors.first() else { return Ok(0) };
        if self.unread.is_empty() && !self.ended {
            let read = self.receive(memory.at_mut(first), nonblocking, waker)?;
            self.ended = read == 0;
            return Ok(read);
        }
        let mut done = 0;
        for vector in vectors {
            done += take(&mut self.unread, memory.at_mut(vector));
        }
        Ok(done)
    }

    /// Reads from the host's socket; 0 at the end.
    fn receive(&self, buffer: &mut [u8], nonblocking: bool, waker: &Waker) -> Result<usize, Break> {
        let mut stream = self.stream.as_ref().ok_or(Errno::Connreset)?;
        loop {
            match stream.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    waker.wait_after(stream.as_fd(), PollFlags::IN, nonblocking)?;
                }
                read => return Ok(read.map_err(Errno::from)?),
            }
        }
    }

    /// Reads into the connection's own buffer until it has `len` bytes or the connection ends. What has been read
    /// stays there when this is interrupted.
    fn fill(&mut self, len: usize, nonblocking: bool, waker: &Waker) -> Result<(), Break> {
        while self.unread.len() < len && !self.ended {
            let mut chunk = vec![0; CHUNK.min(len - self.unread.len())];
            let read = self.receive(&mut chunk, nonblocking, waker)?;
            self.ended = read == 0;
            self.unread.extend(&chunk[..read]);
        }
        Ok(())
    }

    /// Reads all that has arrived into the connection's own buffer.
    fn collect(&mut self, fd: u32, limits: &Limits) -> Result<(), Error> {
        let Some(mut stream) = self.stream.as_ref() else { return Ok(()) };
        let mut chunk = vec![0; CHUNK];
        while !self.ended {
            if self.unread.len() as u64 > limits.carried_bytes {
                let why = format!("it has more than {} unread bytes, the limit", limits.carried_bytes);
                return Err(Error::NotMovable { fd, why });
            }
            match stream.read(&mut chunk) {
                Ok(0) => self.ended = true,
                Ok(read) => self.unread.extend(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Nothing more at present, or nothing more ever: the program will be told when it reads on.
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Writes at least one byte, if there is any.
    pub(crate) fn write(
        &mut self,
        memory: &Memory<'_>,
        vectors: &[Range<usize>],
        nonblocking: bool,
        waker: &Waker,
    ) -> Result<usize, Break> {
        let mut stream = self.stream.as_ref().ok_or(Errno::Pipe)?;
        let slices: Vec<_> = vectors.iter().map(|vector| std::io::IoSlice::new(memory.at(vector))).collect();
        if slices.is_empty() {
            return Ok(0);
        }
        loop {
            match stream.write_vectored(&slices) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    waker.wait_after(stream.as_fd(), PollFlags::OUT, nonblocking)?;
                }
                written => return Ok(written.map_err(Errno::from)?),
            }
        }
    }
}

/// The connection behind a descriptor, with what is common to all: `ENOTSOCK` for another object.
fn connection(table: &mut Table, fd: u32, rights: u64) -> Result<(Common, &mut Connection), Errno> {
    match table.get_mut(fd, rights)? {
        Descriptor { common, object: Object::Connection(connection) } => Ok((*common, connection)),
        Descriptor { object: Object::Listener(_), .. } => Err(Errno::Notconn),
        _ => Err(Errno::Notsock),
    }
}

pub(crate) fn sock_accept(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let result = params.u32(2);
    memory.range(result, 1, 4)?;
    let Descriptor { common, object } = world.table.get(params.u32(0), rights::SOCK_ACCEPT)?;
    let Object::Listener(listener) = object else {
        return Err(if matches!(object, Object::Connection(_)) { Errno::Inval } else { Errno::Notsock }.into());
    };
    let nonblocking = params.flags(1, flags::NONBLOCK)? != 0;
    world.table.check_room()?;
    let stream = loop {
        match listener.accept() {
            Ok(stream) => break stream,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                world.waker.wait_after(listener.host_fd(), PollFlags::IN, common.nonblocking)?;
            }
            Err(error) => return Err(Errno::from(error).into()),
        }
    };
    let listener = listener.index;
    let carried = match &world.carrier {
        Some(carrier) => {
            let (id, carrier) = (carrier.connected(listener, stream.as_fd())?, carrier.clone());
            Some(Carried { id, listener, carrier, shut_read: false, shut_write: false })
        }
        None => None,
    };
    let common = Common { nonblocking, lost: common.lost_inheriting, lost_inheriting: common.lost_inheriting };
    let connection = Connection { stream: Some(stream), unread: VecDeque::new(), ended: false, carried };
    let fd = world.table.insert(common, Object::Connection(connection))?;
    Ok(memory.write_u32(result, fd)?)
}

pub(crate) fn sock_recv(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let (common, connection) = connection(&mut world.table, params.u32(0), rights::FD_READ)?;
    let vectors = memory.vectors(params.u32(1), params.u32(2))?;
    let flags = params.flags(3, PEEK | WAIT_ALL)?;
    let (result, result_flags) = (params.u32(4), params.u32(5));
    memory.range(result, 1, 4)?;
    memory.range(result_flags, 1, 2)?;
    let len = memory::total(&vectors);
    if flags & WAIT_ALL != 0 {
        connection.fill(len, common.nonblocking, &world.waker)?;
    } else if flags & PEEK != 0 {
        connection.fill(len.min(1), common.nonblocking, &world.waker)?;
        // More may have arrived with the first byte.
        match connection.fill(len, true, &world.waker) {
            Ok(()) | Err(Break::Errno(_) | Break::Reissue) => {}
            Err(other) => return Err(other),
        }
    }
    let read = if flags & PEEK != 0 {
        let mut unread = connection.unread.iter();
        let mut read = 0;
        for vector in &vectors {
            for (byte, unread) in memory.at_mut(vector).iter_mut().zip(&mut unread) {
                *byte = *unread;
                read += 1;
            }
        }
        read
    } else {
        connection.read(memory, &vectors, common.nonblocking, &world.waker)?
    };
    memory.write(result_flags, &[0, 0])?;
    Ok(memory.write_u32(result, read as u32)?)
}

pub(crate) fn sock_send(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let (common, connection) = connection(&mut world.table, params.u32(0), rights::FD_WRITE)?;
    let vectors = memory.vectors(params.u32(1), params.u32(2))?;
    params.flags(3, 0)?;
    let result = params.u32(4);
    memory.range(result, 1, 4)?;
    let written = connection.write(memory, &vectors, common.nonblocking, &world.waker)?;
    Ok(memory.write_u32(result, written as u32)?)
}

pub(crate) fn sock_shutdown(world: &mut World, _: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let (_, connection) = connection(&mut world.table, params.u32(0), rights::SOCK_SHUTDOWN)?;
    let how = match params.flags(1, SHUT_READ | SHUT_WRITE)? {
        SHUT_READ => Shutdown::Read,
        SHUT_WRITE => Shutdown::Write,
        0 => return Err(Errno::Inval.into()),
        _ => Shutdown::Both,
    };
    connection.stream.as_ref().ok_or(Errno::Notconn)?.shutdown(how)?;
    if let Some(carried) = &mut connection.carried {
        carried.shut_read |= how != Shutdown::Write;
        carried.shut_write |= how != Shutdown::Read;
    }
    Ok(())
}
