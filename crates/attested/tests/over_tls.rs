//! Goal: the handshake over real TLS sessions: two keeps accept each other, and somebody in between does not get
//! through, also with the stolen TLS key of one of them.
//!
//! Method: sessions of `dunlin_transport` over socket pairs, simulated platforms, one thread for each end.

mod world;

use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use dunlin_attested::{Check, Config, Done, DriveError, Handshake, Party, SessionFacts, Side, run};
use dunlin_identity::Issuer;
use dunlin_transport::{Roots, Session, TlsIdentity, accept, connect};
use world::{Instance, Keep, NOW, World, module, world};

const HOUR: Duration = Duration::from_secs(3600);

/// A provider's machine that certifies keeps.
struct Provider {
    root: Issuer,
    machine: Issuer,
}

fn provider(name: &str) -> Provider {
    let root = Issuer::provider(name, Instance::generate().0, HOUR).expect("a root");
    let node = Instance::generate().0;
    let chain = root.certify_node("node", node.public(), HOUR).expect("a certificate");
    Provider { root, machine: Issuer::new(node, chain).expect("a machine") }
}

impl Provider {
    fn identity(&self, instance: &Instance) -> TlsIdentity {
        let chain = self.machine.certify_keep(instance.0.public(), HOUR).expect("a certificate");
        TlsIdentity::new(chain, instance.0.to_pkcs8().expect("encodes").to_vec()).expect("an identity")
    }
}

struct Net {
    acme: Provider,
    bolt: Provider,
    roots: Roots,
}

fn net() -> Net {
    let (acme, bolt) = (provider("acme"), provider("bolt"));
    let mut roots = Roots::new();
    roots.add("acme", &acme.root.chain()[0]).expect("a root");
    roots.add("bolt", &bolt.root.chain()[0]).expect("a root");
    Net { acme, bolt, roots }
}

impl Net {
    fn identity(&self, keep: &Keep) -> TlsIdentity {
        if keep.provider == "acme" { &self.acme } else { &self.bolt }.identity(&keep.instance)
    }
}

fn config(world: &World, side: Side, keep: &Keep, session: &Session) -> Config {
    let mut config = world.config(side, keep, keep, session.exporter);
    config.session = SessionFacts {
        exporter: session.exporter,
        own_spki: session.own_spki,
        peer_spki: session.peer_spki,
        own_provider: keep.provider.to_owned(),
        peer_provider: session.provider.clone(),
    };
    config
}

fn drive(world: &World, side: Side, keep: &Keep, mut session: Session) -> Result<Done, DriveError> {
    let config = config(world, side, keep, &session);
    let nonce = if side == Side::Source { [1; 32] } else { [2; 32] };
    let handshake = Handshake::new(config, nonce, NOW);
    let mut read_ledger = |_, nonce| Ok(world.reading_of(world.record, nonce));
    let done = run(handshake, &mut session.reader, &mut session.writer, &keep.attester, &mut read_ledger, &|| NOW);
    session.closer.close();
    done
}

#[test]
fn two_keeps_prove_themselves_over_tls() {
    let (world, net) = (world(), net());
    let (near, far) = UnixStream::pair().expect("a pair");
    let (a, b) = thread::scope(|scope| {
        let destination = scope.spawn(|| {
            let session = accept(far, &net.identity(&world.b), &net.roots, None).expect("a session");
            drive(&world, Side::Destination, &world.b, session)
        });
        let session = connect(near, &net.identity(&world.a), &net.roots, Some("acme")).expect("a session");
        (drive(&world, Side::Source, &world.a, session), destination.join().expect("no panic"))
    });
    let (a, b) = (a.expect("trust"), b.expect("trust"));
    assert_eq!(a.peer.shown, b.own);
    assert_eq!(a.peer.holder.0, world.b.instance.spki().0);
}

/// Carries messages between two sessions that one attacker ends, as they are.
fn relay(mut from: dunlin_transport::Reader, mut to: dunlin_transport::Writer) {
    let _over = std::io::copy(&mut from, &mut to);
    let _over = to.finish();
}

#[test]
fn b03_somebody_in_the_middle_with_the_stolen_tls_key_does_not_get_through() {
    let (world, net) = (world(), net());
    let ((near, at_near), (at_far, far)) = (UnixStream::pair().expect("a pair"), UnixStream::pair().expect("a pair"));
    let (stolen, own) = (net.identity(&world.b), net.identity(&world.c));
    let (a, b) = thread::scope(|scope| {
        let (world, net) = (&world, &net);
        let source = scope.spawn(move || {
            // The certificate is right: it is that of B.
            let session = connect(near, &net.identity(&world.a), &net.roots, Some("acme")).expect("a session");
            assert_eq!(session.peer_spki, world.b.instance.spki());
            drive(world, Side::Source, &world.a, session)
        });
        let destination = scope.spawn(move || {
            let session = accept(far, &net.identity(&world.b), &net.roots, None).expect("a session");
            drive(world, Side::Destination, &world.b, session)
        });
        let towards_a = accept(at_near, &stolen, &net.roots, None).expect("a session");
        let towards_b = connect(at_far, &own, &net.roots, None).expect("a session");
        scope.spawn(move || relay(towards_a.reader, towards_b.writer));
        scope.spawn(move || relay(towards_b.reader, towards_a.writer));
        (source.join().expect("no panic"), destination.join().expect("no panic"))
    });
    // B proves itself, but for another session than that of A.
    let Err(DriveError::Refused(found)) = a else { panic!("{a:?}") };
    assert_eq!(found.by, Party::Here);
    assert!(found.failed(Check::Evidence) && found.failed(Check::Signature), "{found}");
    let Err(DriveError::Refused(told)) = b else { panic!("{b:?}") };
    assert_eq!(told.by, Party::There);
}

#[test]
fn nothing_but_the_handshake_has_flowed_when_a_wrong_runtime_is_refused() {
    let (world, net) = (world(), net());
    let text = world::policy_text(&world.ledger, &[(&world::runtime().to_string(), &"00".repeat(32))]);
    let policy = world::signed(&text, &world.owner);
    let (a, b) = (
        world::keep("acme", "acme-a", module(), policy.hash()),
        world::keep("acme", "acme-b", module(), policy.hash()),
    );
    let strict = World { policy, a, b, ..world };
    let (near, far) = UnixStream::pair().expect("a pair");
    let (a, b) = thread::scope(|scope| {
        let destination = scope.spawn(|| {
            let session = accept(far, &net.identity(&strict.b), &net.roots, None).expect("a session");
            drive(&strict, Side::Destination, &strict.b, session)
        });
        let session = connect(near, &net.identity(&strict.a), &net.roots, None).expect("a session");
        (drive(&strict, Side::Source, &strict.a, session), destination.join().expect("no panic"))
    });
    let Err(DriveError::Refused(found)) = a else { panic!("{a:?}") };
    assert!(found.reasons.iter().any(|reason| reason.text.as_str().starts_with("Measurement")), "{found}");
    assert!(matches!(b, Err(DriveError::Refused(told)) if told.reasons == found.reasons));
}

#[test]
fn a_message_that_is_announced_too_long_is_not_waited_for() {
    let world = world();
    let (a, _) = world.configs();
    let bytes = u32::MAX.to_le_bytes();
    let mut read_ledger = |_, _| Err("not asked".to_owned());
    let handshake = Handshake::new(a, [1; 32], NOW);
    let done = run(handshake, &mut bytes.as_slice(), &mut Vec::new(), &world.a.attester, &mut read_ledger, &|| NOW);
    assert!(matches!(done, Err(DriveError::TooLong(u32::MAX))), "{done:?}");
    let handshake = Handshake::new(world.configs().0, [1; 32], NOW);
    let cut = [9, 0, 0, 0, 1];
    let done = run(handshake, &mut cut.as_slice(), &mut Vec::new(), &world.a.attester, &mut read_ledger, &|| NOW);
    assert!(matches!(done, Err(DriveError::Stream(_))), "{done:?}");
}
