//! Two providers, their machines, and a way between them that can be tampered with.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dunlin_identity::{Issuer, PrivateKey};
use dunlin_transport::{Error, Roots, Session, TlsIdentity, accept_within, connect_within};

/// Nothing here takes longer, also on a busy machine; whoever waits for this long has found a fault.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A provider with one machine.
pub(crate) struct Provider {
    pub(crate) key: PrivateKey,
    pub(crate) root: Issuer,
    pub(crate) node: Issuer,
}

pub(crate) fn new_key() -> PrivateKey {
    PrivateKey::generate().expect("a key")
}

pub(crate) fn provider(name: &str) -> Provider {
    let (key, node) = (new_key(), new_key());
    let root = Issuer::provider(name, key.clone(), HOUR).expect("a root");
    let chain = root.certify_node("node", node.public(), HOUR).expect("a certificate");
    Provider { key, root, node: Issuer::new(node, chain).expect("a machine") }
}

impl Provider {
    /// The root's certificate.
    pub(crate) fn certificate(&self) -> &[u8] {
        &self.root.chain()[0]
    }

    /// The chain for a key, without the root.
    pub(crate) fn certify(&self, key: &PrivateKey, valid: Duration) -> Vec<Vec<u8>> {
        let mut chain = self.node.certify_keep(key.public(), valid).expect("a certificate");
        chain.truncate(2);
        chain
    }

    pub(crate) fn keep(&self) -> TlsIdentity {
        let key = new_key();
        identity(self.certify(&key, HOUR), &key).expect("it fits")
    }
}

pub(crate) fn identity(chain: Vec<Vec<u8>>, key: &PrivateKey) -> Result<TlsIdentity, Error> {
    TlsIdentity::new(chain, key.to_pkcs8().expect("encodes").to_vec())
}

pub(crate) struct World {
    pub(crate) acme: Provider,
    pub(crate) bolt: Provider,
    pub(crate) roots: Roots,
    /// A keep at acme.
    pub(crate) a: TlsIdentity,
    /// A keep at bolt.
    pub(crate) b: TlsIdentity,
}

pub(crate) fn world() -> World {
    let (acme, bolt) = (provider("acme"), provider("Bolt, Ltd."));
    let mut roots = Roots::new();
    roots.add("acme", acme.certificate()).expect("a root");
    roots.add("bolt", bolt.certificate()).expect("a root");
    let (a, b) = (acme.keep(), bolt.keep());
    World { acme, bolt, roots, a, b }
}

/// Both sides of one handshake: what `a` got as the one that asks, and `b` as the one that is asked.
pub(crate) fn shake(
    world: &World,
    a: &TlsIdentity,
    b: &TlsIdentity,
    streams: (UnixStream, UnixStream),
) -> (Result<Session, Error>, Result<Session, Error>) {
    let (near, far) = streams;
    thread::scope(|scope| {
        let asked = scope.spawn(|| accept_within(LIMIT, far, b, &world.roots, None));
        let asking = connect_within(LIMIT, near, a, &world.roots, None);
        (asking, asked.join().expect("no panic"))
    })
}

pub(crate) fn sessions(world: &World) -> (Session, Session) {
    let (a, b) = shake(world, &world.a, &world.b, UnixStream::pair().expect("a pair"));
    (a.expect("a session"), b.expect("a session"))
}

/// What a relay does to one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tamper {
    No,
    /// Ends both directions before this byte.
    CutAt(usize),
    /// Changes a bit of this byte.
    FlipAt(usize),
}

/// A relay between the two streams that it gives back. `there` is done to what the first one sends, `back` to what the
/// second one sends. The counters tell how many bytes went there and back.
pub(crate) struct Relay {
    pub(crate) near: UnixStream,
    pub(crate) far: UnixStream,
    pub(crate) there: Arc<AtomicUsize>,
    pub(crate) back: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

pub(crate) fn relay(there: Tamper, back: Tamper) -> Relay {
    let (near, inner_near) = UnixStream::pair().expect("a pair");
    let (far, inner_far) = UnixStream::pair().expect("a pair");
    let (counts_there, counts_back) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let carry = |from: &UnixStream, to: &UnixStream, tamper, count: &Arc<AtomicUsize>| {
        let (from, to, count) = (from.try_clone().expect("a copy"), to.try_clone().expect("a copy"), count.clone());
        thread::spawn(move || carry(from, to, tamper, &count))
    };
    let threads =
        vec![carry(&inner_near, &inner_far, there, &counts_there), carry(&inner_far, &inner_near, back, &counts_back)];
    Relay { near, far, there: counts_there, back: counts_back, threads }
}

impl Relay {
    /// Waits until both directions have ended.
    pub(crate) fn join(threads: Vec<JoinHandle<()>>) {
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    }

    pub(crate) fn split(self) -> ((UnixStream, UnixStream), Vec<JoinHandle<()>>) {
        ((self.near, self.far), self.threads)
    }
}

fn carry(mut from: UnixStream, mut to: UnixStream, tamper: Tamper, count: &AtomicUsize) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        let start = count.fetch_add(read, Ordering::SeqCst);
        let mut bytes = &mut buffer[..read];
        let mut over = read == 0;
        match tamper {
            Tamper::FlipAt(at) if (start..start + read).contains(&at) => bytes[at - start] ^= 1,
            Tamper::CutAt(at) if start + read > at => {
                bytes = &mut bytes[..at - start.min(at)];
                over = true;
            }
            _ => {}
        }
        if to.write_all(bytes).is_err() || over {
            let how = if read == 0 { Shutdown::Write } else { Shutdown::Both };
            let _over = to.shutdown(how);
            if how == Shutdown::Both {
                let _over = from.shutdown(how);
            }
            return;
        }
    }
}
