//! Connections that moved here with a service: between the program's end of a pair and the node that has the client.
//!
//! ```text
//!   client ══ its node ── Whole/AfterTail ──> up ──> P ══ K program        P is the node's end of the pair,
//!                      <───────────────────── down <─┘                     K the keep's, of which the node has a duplicate
//!   the node before this one ── Tail ───────> up (before what AfterTail brings)
//! ```
//!
//! When the service moves on, nothing new is written to K. What is still in the pair goes out in order: what the program
//! wrote goes to the client's node, followed by *moved*; what the client sent goes to the next node as its *tail*. The
//! client's node then goes on with the next node itself, so that a connection never takes more than one hop between nodes.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot, watch};

use crate::frames::{Buffer, Frame, FrameReader, write_closed, write_data, write_done, write_end, write_moved};
use crate::keep::lock;
use crate::peer::Part;

/// How long a part of a connection may take to come, once the connection is here.
const PATIENCE: Duration = Duration::from_secs(60);

/// Migration and connection.
pub(crate) type SlotKey = (String, String);

/// The connections that moved here and have not ended.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    map: Mutex<HashMap<SlotKey, Arc<Slot>>>,
    came: Notify,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Where the first stream of each kind goes.
    tail: Mutex<Option<oneshot::Sender<OwnedReadHalf>>>,
    main: Mutex<Option<oneshot::Sender<(Part, OwnedReadHalf)>>>,
    client: Mutex<Option<oneshot::Sender<OwnedWriteHalf>>>,
    fate: watch::Sender<Fate>,
    /// The duplicate of the keep's end.
    kept: Mutex<Option<OwnedFd>>,
    /// The client's side has ended, and the end is in the pair.
    ended: AtomicBool,
    /// The client's node is gone, with what it had.
    lost: AtomicBool,
}

/// What becomes of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    Here,
    /// The program has closed it.
    Closed,
    /// It went on with its service.
    Left(Onward),
    /// Its keep is gone.
    Gone,
}

/// How a connection goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Onward {
    pub(crate) node: String,
    pub(crate) migration: String,
    /// The program had seen the end of the client's direction.
    pub(crate) ended: bool,
    /// The program had ended its own.
    pub(crate) shut: bool,
}

impl Slots {
    /// A connection came with a migration: `end` is the node's end of its pair, `kept` a duplicate of the keep's. Must be
    /// called within a runtime.
    pub(crate) fn add(self: &Arc<Self>, key: SlotKey, end: OwnedFd, kept: OwnedFd) -> std::io::Result<Arc<Slot>> {
        let end = StdUnixStream::from(end);
        end.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(end)?.into_split();
        let ((tail, tail_comes), (main, main_comes), (client, client_comes)) =
            (oneshot::channel(), oneshot::channel(), oneshot::channel());
        let slot = Arc::new(Slot {
            tail: Mutex::new(Some(tail)),
            main: Mutex::new(Some(main)),
            client: Mutex::new(Some(client)),
            fate: watch::Sender::new(Fate::Here),
            kept: Mutex::new(Some(kept)),
            ended: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        });
        lock(&self.map).insert(key.clone(), slot.clone());
        self.came.notify_waiters();
        let (slots, served) = (self.clone(), slot.clone());
        tokio::spawn(async move {
            tokio::join!(served.up(writer, tail_comes, main_comes), served.down(reader, client_comes));
            lock(&slots.map).remove(&key);
        });
        Ok(slot)
    }

    /// Waits for a connection that should be coming.
    pub(crate) async fn find(&self, key: &SlotKey, patience: Duration) -> Option<Arc<Slot>> {
        let found = async {
            loop {
                let came = self.came.notified();
                tokio::pin!(came);
                came.as_mut().enable();
                if let Some(slot) = lock(&self.map).get(key) {
                    return slot.clone();
                }
                came.await;
            }
        };
        tokio::time::timeout(patience, found).await.ok()
    }

    pub(crate) fn count(&self) -> usize {
        lock(&self.map).len()
    }
}

impl Slot {
    /// A stream for it came. The client's direction is served at once, whatever the other one waits for: a program that
    /// reads only when it has written would wait for ever otherwise.
    pub(crate) fn take(&self, part: Part, stream: UnixStream) {
        let (reader, writer) = stream.into_split();
        // A slot that is over needs no more streams, and only the first of each kind counts.
        if part == Part::Tail {
            if let Some(tail) = lock(&self.tail).take() {
                let _over = tail.send(reader);
            }
            return;
        }
        if let Some(main) = lock(&self.main).take() {
            let _over = main.send((part, reader));
        }
        if let Some(client) = lock(&self.client).take() {
            let _over = client.send(writer);
        }
    }

    pub(crate) fn decide(&self, fate: Fate) {
        let changes = self.fate.send_if_modified(|now| match now {
            Fate::Here => {
                *now = fate.clone();
                true
            }
            _ => false,
        });
        if changes && !matches!(fate, Fate::Left(_)) {
            lock(&self.kept).take();
        }
    }

    /// The service moves on: ends the program's direction of the pair, and gives the duplicate for the tail.
    pub(crate) fn leave(&self, onward: Onward) -> Option<OwnedFd> {
        let shut = onward.shut;
        self.decide(Fate::Left(onward));
        let kept = lock(&self.kept).take()?;
        if !shut {
            // It fails if the pair is broken already, and then there is nothing in it.
            let _broken = rustix::net::shutdown(&kept, rustix::net::Shutdown::Write);
        }
        Some(kept)
    }

    /// From the client, and from the node before this one, to the program.
    async fn up(
        &self,
        writer: OwnedWriteHalf,
        tail: oneshot::Receiver<OwnedReadHalf>,
        mut main: oneshot::Receiver<(Part, OwnedReadHalf)>,
    ) {
        let mut to = Program { writer: Some(writer), slot: self };
        let through = async {
            let (mut tail, mut came) = (Some(tail), None);
            if let Some(coming) = &mut tail {
                tokio::select! {
                    before = coming => {
                        if !to.pump(FrameReader::new(before.ok()?)).await {
                            return None;
                        }
                        tail = None;
                    }
                    first = &mut main => came = Some(first.ok()?),
                }
            }
            let (part, reader) = match came {
                Some(came) => came,
                None => main.await.ok()?,
            };
            if let (Part::AfterTail, Some(tail)) = (part, tail) {
                let before = tokio::time::timeout(PATIENCE, tail).await.ok()?.ok()?;
                if !to.pump(FrameReader::new(before)).await {
                    return None;
                }
            }
            to.pump(FrameReader::new(reader)).await.then_some(())
        };
        let done = tokio::select! {
            done = through => done,
            () = self.nobody_comes() => None,
        };
        match done {
            Some(()) => to.end().await,
            None => to.fail(),
        }
    }

    /// The keep is gone, or no stream came for too long.
    async fn nobody_comes(&self) {
        let waits = async {
            tokio::time::sleep(PATIENCE).await;
            if lock(&self.main).is_none() {
                core::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.gone() => {}
            () = waits => {}
        }
    }

    /// From the program to the client.
    async fn down(&self, mut reader: OwnedReadHalf, client: oneshot::Receiver<OwnedWriteHalf>) {
        let client = tokio::select! {
            client = client => client.ok(),
            () = self.gone() => None,
        };
        let Some(mut out) = client else { return };
        let mut buffer = Buffer::new();
        loop {
            let length = tokio::select! {
                length = reader.read(buffer.space()) => length.unwrap_or(0),
                () = self.gone() => return,
            };
            if length == 0 {
                break;
            }
            if write_data(&mut out, &mut buffer, length).await.is_err() {
                return;
            }
        }
        let mut fates = self.fate.subscribe();
        let mut end_is_sent = false;
        loop {
            let fate = fates.borrow_and_update().clone();
            let shut = match &fate {
                Fate::Left(onward) => onward.shut,
                Fate::Here | Fate::Closed => true,
                // What its keep did not end is cut off.
                Fate::Gone => false,
            };
            if shut && !end_is_sent {
                end_is_sent = true;
                if write_end(&mut out).await.is_err() {
                    return;
                }
            }
            match fate {
                Fate::Here => {}
                Fate::Closed => {
                    // Whoever does not listen any more knows already.
                    let _gone = write_closed(&mut out).await;
                    return;
                }
                Fate::Left(onward) => {
                    let _gone = write_moved(&mut out, &onward.node, &onward.migration).await;
                    return;
                }
                Fate::Gone => return,
            }
            if fates.changed().await.is_err() {
                return;
            }
        }
    }

    async fn gone(&self) {
        // The sender lives as long as this.
        let mut fates = self.fate.subscribe();
        let _never = fates.wait_for(|fate| *fate == Fate::Gone).await;
    }

    /// What was on its way to the program, for the node where it goes on.
    pub(crate) async fn tail(&self, kept: OwnedFd, ended: bool, mut out: UnixStream) -> std::io::Result<()> {
        let kept = StdUnixStream::from(kept);
        kept.set_nonblocking(true)?;
        let mut kept = UnixStream::from_std(kept)?;
        let mut buffer = Buffer::new();
        loop {
            let length = kept.read(buffer.space()).await?;
            if length == 0 {
                break;
            }
            write_data(&mut out, &mut buffer, length).await?;
        }
        if self.lost.load(Ordering::SeqCst) {
            // Without a done, the other side knows that something is missing.
            return Ok(());
        }
        if self.ended.load(Ordering::SeqCst) && !ended {
            write_end(&mut out).await?;
        }
        write_done(&mut out).await?;
        out.shutdown().await
    }
}

/// The program's side of a pair.
struct Program<'a> {
    /// `None` once the program does not read any more, or the client has ended.
    writer: Option<OwnedWriteHalf>,
    slot: &'a Slot,
}

impl Program<'_> {
    /// Until the other side is done; whether it was.
    async fn pump(&mut self, mut from: FrameReader<OwnedReadHalf>) -> bool {
        loop {
            let frame = tokio::select! {
                frame = from.next() => frame,
                () = self.slot.gone() => return false,
            };
            match frame {
                Ok(Frame::Data(length)) => {
                    let Some(writer) = &mut self.writer else { continue };
                    let written = tokio::select! {
                        written = writer.write_all(from.data(length)) => written,
                        () = self.slot.gone() => return false,
                    };
                    if written.is_err() {
                        // The program has closed the connection: the client hears of it from the other direction.
                        self.writer = None;
                    }
                }
                Ok(Frame::End) => {
                    self.slot.ended.store(true, Ordering::SeqCst);
                    self.end().await;
                }
                Ok(Frame::Done) => return true,
                Ok(Frame::Closed | Frame::Moved { .. }) | Err(_) => return false,
            }
        }
    }

    async fn end(&mut self) {
        if let Some(mut writer) = self.writer.take() {
            // It fails if the program has closed already.
            let _closed = writer.shutdown().await;
        }
    }

    fn fail(&mut self) {
        self.slot.lost.store(true, Ordering::SeqCst);
        self.writer = None;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::Shutdown;

    use super::*;

    fn key(migration: &str) -> SlotKey {
        (migration.to_owned(), "c".to_owned())
    }

    /// A slot, and the program's end of its pair.
    fn slot(slots: &Arc<Slots>, migration: &str) -> (Arc<Slot>, StdUnixStream) {
        let (end, program) = StdUnixStream::pair().unwrap();
        let kept = program.try_clone().unwrap();
        (slots.add(key(migration), end.into(), kept.into()).unwrap(), program)
    }

    async fn send(out: &mut OwnedWriteHalf, bytes: &[u8]) {
        let mut buffer = Buffer::new();
        buffer.space()[..bytes.len()].copy_from_slice(bytes);
        write_data(out, &mut buffer, bytes.len()).await.unwrap();
    }

    async fn receive(from: &mut FrameReader<OwnedReadHalf>, bytes: &[u8]) {
        let mut got = Vec::new();
        while got.len() < bytes.len() {
            let Frame::Data(length) = from.next().await.unwrap() else { panic!("no data after {got:?}") };
            got.extend_from_slice(from.data(length));
        }
        assert_eq!(got, bytes);
    }

    fn onward(ended: bool, shut: bool) -> Onward {
        Onward { node: "n".to_owned(), migration: "2".to_owned(), ended, shut }
    }

    /// The client's node, this node and the next one: what is on its way when the service moves on arrives in order.
    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_lost_or_reordered_when_a_connection_moves_on() {
        let (here, next) = (Arc::<Slots>::default(), Arc::<Slots>::default());
        let (first, mut program) = slot(&here, "1");
        let (ours, theirs) = UnixStream::pair().unwrap();
        first.take(Part::Whole, theirs);
        let (from, mut to) = ours.into_split();
        let mut from = FrameReader::new(from);
        send(&mut to, b"read ").await;
        let mut read = [0; 5];
        program.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"read ");
        program.write_all(b"answer").unwrap();
        send(&mut to, b"unread ").await;
        // The service moves on: its keep is gone, the node has the duplicate.
        drop(program);
        let kept = first.leave(onward(false, false)).unwrap();
        let (second, mut program) = slot(&next, "2");
        let (tail, theirs) = UnixStream::pair().unwrap();
        second.take(Part::Tail, theirs);
        let sent = tokio::spawn(async move { first.tail(kept, false, tail).await });
        receive(&mut from, b"answer").await;
        let moved = Frame::Moved { node: "n".to_owned(), migration: "2".to_owned() };
        assert_eq!(from.next().await.unwrap(), moved);
        // The client goes on at the new place before the tail is through.
        let (ours, theirs) = UnixStream::pair().unwrap();
        second.take(Part::AfterTail, theirs);
        let (new_from, mut new_to) = ours.into_split();
        let mut new_from = FrameReader::new(new_from);
        send(&mut new_to, b"new").await;
        program.write_all(b"early").unwrap();
        receive(&mut new_from, b"early").await;
        send(&mut to, b"late ").await;
        write_done(&mut to).await.unwrap();
        sent.await.unwrap().unwrap();
        let mut read = vec![0; 15];
        program.read_exact(&mut read).unwrap();
        assert_eq!(read, b"unread late new");
        // The client's end, then the program's.
        write_end(&mut new_to).await.unwrap();
        assert_eq!(program.read(&mut [0]).unwrap(), 0);
        program.shutdown(Shutdown::Write).unwrap();
        assert_eq!(new_from.next().await.unwrap(), Frame::End);
        second.decide(Fate::Closed);
        assert_eq!(new_from.next().await.unwrap(), Frame::Closed);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_end_on_its_way_is_part_of_the_tail() {
        let slots = Arc::<Slots>::default();
        let (first, program) = slot(&slots, "1");
        let (ours, theirs) = UnixStream::pair().unwrap();
        first.take(Part::Whole, theirs);
        let (_from, mut to) = ours.into_split();
        send(&mut to, b"x").await;
        write_end(&mut to).await.unwrap();
        drop(program);
        let kept = first.leave(onward(false, false)).unwrap();
        let (tail, theirs) = UnixStream::pair().unwrap();
        first.tail(kept, false, tail).await.unwrap();
        let mut got = FrameReader::new(theirs.into_split().0);
        receive(&mut got, b"x").await;
        assert_eq!(got.next().await.unwrap(), Frame::End);
        assert_eq!(got.next().await.unwrap(), Frame::Done);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_that_is_lost_makes_no_end_and_no_done() {
        let slots = Arc::<Slots>::default();
        let (first, program) = slot(&slots, "1");
        let (ours, theirs) = UnixStream::pair().unwrap();
        first.take(Part::Whole, theirs);
        drop(ours);
        drop(program);
        let kept = first.leave(onward(false, false)).unwrap();
        let (tail, theirs) = UnixStream::pair().unwrap();
        first.tail(kept, false, tail).await.unwrap();
        assert!(FrameReader::new(theirs.into_split().0).next().await.is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_keep_that_is_gone_ends_its_connections_and_frees_their_slots() {
        let slots = Arc::<Slots>::default();
        let (lost, program) = slot(&slots, "1");
        let (ours, theirs) = UnixStream::pair().unwrap();
        lost.take(Part::Whole, theirs);
        assert_eq!(slots.count(), 1);
        lost.decide(Fate::Gone);
        drop(program);
        assert!(FrameReader::new(ours.into_split().0).next().await.is_err());
        for _ in 0..100 {
            if slots.count() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the slot is still there");
    }
}
