//! Goal: the two halves of a session carry bytes for two threads at once, unchanged, and tell an end from a cut.
//!
//! Method: both directions are filled at the same time over streams with small buffers, so that every writer waits for
//! the other side's reader again and again.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use dunlin_base::{Digest, Hasher};
use dunlin_transport::{Error, Reader, Session, Writer, accept, connect};
use support::{Tamper, relay, sessions, shake, world};

const MIB: usize = 1 << 20;

/// Bytes that do not repeat soon.
fn pattern(seed: u64, length: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut state = seed | 1;
    let piece = 192 * 1024 + 7;
    (0..length.div_ceil(piece)).map(move |number| {
        let size = piece.min(length - number * piece);
        let mut bytes = Vec::with_capacity(size + 8);
        while bytes.len() < size {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.extend((state ^ (state >> 29)).to_le_bytes());
        }
        bytes.truncate(size);
        bytes
    })
}

fn fill(mut writer: Writer, seed: u64, length: usize) -> Digest {
    let mut hash = Hasher::default();
    for piece in pattern(seed, length) {
        hash.update(&piece);
        writer.write_all(&piece).expect("written");
    }
    writer.finish().expect("finished");
    hash.finish()
}

fn drain(mut reader: Reader) -> (Digest, usize) {
    let (mut hash, mut total) = (Hasher::default(), 0);
    let mut buffer = vec![0; 100_003];
    loop {
        match reader.read(&mut buffer).expect("read") {
            0 => return (hash.finish(), total),
            read => {
                total += read;
                hash.update(&buffer[..read]);
            }
        }
    }
}

fn both_ways(a: Session, b: Session, length: usize) {
    let threads = [
        thread::spawn(move || (fill(a.writer, 1, length), length)),
        thread::spawn(move || drain(b.reader)),
        thread::spawn(move || (fill(b.writer, 2, length), length)),
        thread::spawn(move || drain(a.reader)),
    ];
    let [sent_a, got_b, sent_b, got_a] = threads.map(|thread| thread.join().expect("no panic"));
    assert_eq!((sent_a, sent_b), (got_b, got_a));
}

#[test]
fn both_directions_are_full_at_once_over_a_unix_stream() {
    let (a, b) = sessions(&world());
    both_ways(a, b, 64 * MIB);
}

#[test]
fn both_directions_are_full_at_once_over_tcp() {
    let world = world();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (far, _) = listener.accept().expect("a connection");
    let (a, b) = thread::scope(|scope| {
        let asked = scope.spawn(|| accept(far, &world.b, &world.roots, None).expect("a session"));
        (connect(near, &world.a, &world.roots, None).expect("a session"), asked.join().expect("no panic"))
    });
    both_ways(a, b, 64 * MIB);
}

#[test]
fn one_direction_ends_and_the_other_goes_on() {
    let (mut a, mut b) = sessions(&world());
    a.writer.write_all(b"question").expect("written");
    a.writer.finish().expect("finished");
    let mut question = Vec::new();
    b.reader.read_to_end(&mut question).expect("an end, not a cut");
    assert_eq!(question, b"question");
    assert_eq!(b.reader.read(&mut [0]).expect("still the end"), 0);
    assert!(a.writer.write_all(b"more").is_err(), "it said that nothing more comes");
    b.writer.write_all(b"answer").expect("written");
    b.writer.finish().expect("finished");
    let mut answer = Vec::new();
    a.reader.read_to_end(&mut answer).expect("an end, not a cut");
    assert_eq!(answer, b"answer");
}

#[test]
fn bytes_right_behind_the_handshake_are_not_lost() {
    let world = world();
    let (near, far) = UnixStream::pair().expect("a pair");
    let message = vec![7; 200_000];
    let got = thread::scope(|scope| {
        let message = &message;
        let world = &world;
        scope.spawn(move || {
            let mut session = connect(near, &world.a, &world.roots, None).expect("a session");
            session.writer.write_all(message).expect("written");
            session.writer.finish().expect("finished");
        });
        // The other side is slow, so that everything lies in the stream when it comes to it.
        thread::sleep(Duration::from_millis(20));
        let mut session = accept(far, &world.b, &world.roots, None).expect("a session");
        let mut got = Vec::new();
        session.reader.read_to_end(&mut got).expect("all");
        got
    });
    assert!(got == message);
}

#[test]
fn a_stream_that_is_cut_or_changed_is_an_error_and_not_an_end() {
    let world = world();
    let sent = |tamper: Tamper| {
        let (streams, _threads) = relay(tamper, Tamper::No).split();
        let (near, far) = shake(&world, &world.a, &world.b, streams);
        let (mut near, mut far) = (near.expect("a session"), far.expect("a session"));
        let writing = thread::spawn(move || near.writer.write_all(&[1; 100_000]).map(|()| near));
        let mut got = Vec::new();
        let error = far.reader.read_to_end(&mut got).expect_err("an error");
        far.closer.close();
        let _near = writing.join().expect("no panic");
        assert!(got.iter().all(|byte| *byte == 1), "nothing false came out");
        (error.kind(), *error.into_inner().expect("a reason").downcast::<Error>().expect("ours"))
    };
    let (kind, error) = sent(Tamper::CutAt(60_000));
    assert!(kind == ErrorKind::UnexpectedEof && matches!(error, Error::Cut), "{error:?}");
    let (kind, error) = sent(Tamper::FlipAt(60_000));
    assert!(kind == ErrorKind::InvalidData && matches!(error, Error::Protocol(_)), "{error:?}");
}

#[test]
fn closing_wakes_who_reads_and_who_writes() {
    let (a, _b) = sessions(&world());
    let Session { mut reader, mut writer, closer, .. } = a;
    let reading = thread::spawn(move || reader.read(&mut [0]).is_err());
    let writing = thread::spawn(move || {
        // Nobody reads at the other end.
        let mut written = Ok(());
        while written.is_ok() {
            written = writer.write_all(&[0; 65_536]);
        }
        writer.write(&[1]).is_err()
    });
    thread::sleep(Duration::from_millis(50));
    closer.close();
    assert!(reading.join().expect("no panic"));
    assert!(writing.join().expect("no panic"));
}
