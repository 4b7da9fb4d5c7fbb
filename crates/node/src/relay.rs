//! The client's side of connections that are relayed: those that moved away with their service, and new ones to a service
//! that is at another node.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::AddressFamily;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

use crate::frames::{Buffer, Frame, FrameReader, write_closed, write_data, write_done, write_end};
use crate::node::Node;
use crate::peer::{self, Halves, Hello, Part, Reply};
use crate::service::Service;
use crate::slots::{Onward, Slot};

/// How long a connection waits for the other node to be ready for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// A connection that the program here had goes on at another node.
pub(crate) fn depart(node: &Arc<Node>, socket: OwnedFd, connection: String, onward: Onward) {
    let node = node.clone();
    tokio::spawn(async move {
        let Ok((reader, writer)) = halves(socket) else { return };
        let Ok(stream) = carried(&node, &onward, &connection, Part::Whole).await else { return };
        // Without the other node there is no connection; the client sees it end.
        let _lost = serve(&node, stream, Some(connection), reader, writer, !onward.ended).await;
    });
}

/// A connection that had moved here goes on at another node.
pub(crate) fn depart_again(node: &Arc<Node>, slot: Arc<Slot>, connection: String, onward: Onward) {
    let Some(kept) = slot.leave(onward.clone()) else { return };
    let node = node.clone();
    tokio::spawn(async move {
        if let Ok(stream) = carried(&node, &onward, &connection, Part::Tail).await {
            let _lost = slot.tail(kept, onward.ended, stream).await;
        }
    });
}

/// A new connection to a service that is elsewhere.
pub(crate) async fn connect(node: Arc<Node>, service: Arc<Service>, listener: u32, client: TcpStream) {
    let _undelayed = client.set_nodelay(true);
    let Ok(stream) = called(&node, &service, listener).await else { return };
    let (reader, writer) = client.into_split();
    let _lost = serve(&node, stream, None, Box::new(reader), Box::new(writer), true).await;
}

/// Serves another node's new connection to a service that is here.
pub(crate) async fn accept(stream: UnixStream, address: std::net::SocketAddr) -> io::Result<()> {
    let local = TcpStream::connect(address).await?;
    local.set_nodelay(true)?;
    let (mut reader, mut writer) = local.into_split();
    let (from, mut to) = stream.into_split();
    let mut from = FrameReader::new(from);
    let up = async move {
        loop {
            match from.next().await? {
                Frame::Data(length) => writer.write_all(from.data(length)).await?,
                Frame::End => return writer.shutdown().await.map(|()| writer),
                Frame::Closed | Frame::Moved { .. } | Frame::Done => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    };
    let down = async move {
        let mut buffer = Buffer::new();
        loop {
            match reader.read(buffer.space()).await {
                Ok(0) => return write_end(&mut to).await.map(|()| to),
                Ok(length) => write_data(&mut to, &mut buffer, length).await?,
                Err(_) => {
                    write_closed(&mut to).await?;
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
        }
    };
    let (_writer, mut to) = tokio::try_join!(up, down)?;
    write_closed(&mut to).await
}

/// Between a client's socket and wherever its service is, until either ends.
async fn serve(
    node: &Arc<Node>,
    stream: UnixStream,
    connection: Option<String>,
    client: Box<dyn AsyncRead + Send + Unpin>,
    mut to_client: Box<dyn AsyncWrite + Send + Unpin>,
    open: bool,
) -> io::Result<()> {
    let (reader, writer) = stream.into_split();
    let (turns, turning) = mpsc::channel(4);
    let _first = turns.send(writer).await;
    let up = tokio::spawn(up(client, turning, open));
    let _ends = AbortOnDrop(up.abort_handle());
    let mut from: FrameReader<OwnedReadHalf> = FrameReader::new(reader);
    loop {
        match from.next().await? {
            Frame::Data(length) => to_client.write_all(from.data(length)).await?,
            Frame::End => to_client.shutdown().await?,
            Frame::Closed => return Ok(()),
            Frame::Moved { node: to, migration } => {
                let connection = connection.as_ref().ok_or(io::ErrorKind::InvalidData)?;
                let onward = Onward { node: to, migration, ended: false, shut: false };
                let (reader, writer) = carried(node, &onward, connection, Part::AfterTail).await?.into_split();
                from = FrameReader::new(reader);
                let _gone = turns.send(writer).await;
            }
            Frame::Done => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// From the client to wherever its service is.
async fn up(
    mut client: Box<dyn AsyncRead + Send + Unpin>,
    mut turns: mpsc::Receiver<OwnedWriteHalf>,
    mut open: bool,
) -> io::Result<()> {
    let mut buffer = Buffer::new();
    let Some(mut out) = turns.recv().await else { return Ok(()) };
    loop {
        tokio::select! {
            turn = turns.recv() => {
                let Some(next) = turn else { return Ok(()) };
                // If the node before is gone, what it had is lost, and the other direction finds out.
                let _gone = write_done(&mut out).await;
                out = next;
            }
            length = client.read(buffer.space()), if open => match length {
                Ok(0) | Err(_) => {
                    open = false;
                    let _gone = write_end(&mut out).await;
                }
                Ok(length) => {
                    let _gone = write_data(&mut out, &mut buffer, length).await;
                }
            },
        }
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A stream to the node where a connection goes on.
async fn carried(node: &Arc<Node>, onward: &Onward, connection: &str, part: Part) -> io::Result<UnixStream> {
    let hello = Hello::Carried { migration: onward.migration.clone(), connection: connection.to_owned(), part };
    if onward.node == node.name() {
        // It came back: the same, without a network.
        let (ours, theirs) = UnixStream::pair()?;
        let Some(slot) = node.slots().find(&(onward.migration.clone(), connection.to_owned()), PATIENCE).await else {
            return Err(io::ErrorKind::TimedOut.into());
        };
        slot.take(part, theirs);
        return Ok(ours);
    }
    let until = Instant::now() + PATIENCE;
    loop {
        match node.call(&onward.node, &hello).await {
            Ok((stream, Reply::Ready)) => return Ok(stream),
            Ok((_, Reply::Refused { reason })) => return Err(io::Error::other(reason)),
            Ok((_, Reply::Moved { .. } | Reply::Later { .. })) | Err(_) if Instant::now() < until => {}
            Ok(_) => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(io::Error::other(error)),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A stream to the node where a service is.
async fn called(node: &Arc<Node>, service: &Arc<Service>, listener: u32) -> io::Result<UnixStream> {
    let hello = Hello::Connect { service: service.id(), listener };
    let until = Instant::now() + PATIENCE;
    loop {
        match service.away() {
            Some(at) => match node.call(&at, &hello).await {
                Ok((stream, Reply::Ready)) => return Ok(stream),
                // The shortest way from now on. Who sends clients back here has not heard yet that it has the service.
                Ok((_, Reply::Moved { node: to })) if to != at && to != node.name() => {
                    service.moved_on(&at, &to);
                    continue;
                }
                Ok((_, Reply::Refused { reason })) => return Err(io::Error::other(reason)),
                Ok((_, Reply::Moved { .. } | Reply::Later { .. })) | Err(_) => {}
            },
            // It has come back since the connection was accepted.
            None => match service.reachable(listener) {
                Some(address) => {
                    let (ours, theirs) = UnixStream::pair()?;
                    tokio::spawn(accept(theirs, address));
                    return Ok(ours);
                }
                None => tokio::time::sleep(PAUSE * 4).await,
            },
        }
        if Instant::now() >= until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Serves a stream for a connection that moved here.
pub(crate) async fn carry(
    node: Arc<Node>,
    mut stream: UnixStream,
    key: (String, String),
    part: Part,
) -> io::Result<()> {
    match node.slots().find(&key, PATIENCE / 6).await {
        Some(slot) => {
            peer::reply(&mut stream, &Reply::Ready).await?;
            slot.take(part, stream);
            Ok(())
        }
        None => {
            let reason = "no connection of this name came here".to_owned();
            peer::reply(&mut stream, &Reply::Later { reason }).await
        }
    }
}

/// A connected stream socket of the program's, which it does not use any more.
fn halves(socket: OwnedFd) -> io::Result<Halves> {
    rustix::io::ioctl_fionbio(&socket, true)?;
    if rustix::net::sockopt::socket_domain(&socket)? == AddressFamily::UNIX {
        let (reader, writer) = UnixStream::from_std(socket.into())?.into_split();
        return Ok((Box::new(reader), Box::new(writer)));
    }
    let stream = TcpStream::from_std(socket.into())?;
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    Ok((Box::new(reader), Box::new(writer)))
}
