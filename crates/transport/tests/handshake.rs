//! Goal: a session exists only between two sides that both speak TLS 1.3, both have a certificate of a provider that
//! the other one knows, and have made this session from the beginning.
//!
//! Method: each rule is broken by a peer that is made for it: from the bytes of an older TLS, from the TLS library with
//! everything allowed that is forbidden here, or from certificates that are wrong in one way.

mod support;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use dunlin_identity::{PrivateKey, TLS_NAME};
use dunlin_transport::{
    CERTIFICATE_NAME, Error, PeerError, Roots, Session, TlsIdentity, accept, accept_within, connect,
};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection};
use support::{HOUR, Provider, Tamper, World, identity, new_key, provider, relay, sessions, shake, world};

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().expect("a pair")
}

/// A record with one handshake message.
fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = |bytes: usize, digits: usize| bytes.to_be_bytes()[8 - digits..].to_vec();
    let message = [&[kind][..], &length(body.len(), 3), body].concat();
    [&[22, 3, 1][..], &length(message.len(), 2), &message].concat()
}

/// The first message of a client that knows TLS 1.2 only.
fn old_client_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2c, 1, 0]);
    // Supported groups (P-256), point formats, signature algorithms (ECDSA with P-256 and SHA-256).
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 4, 3];
    body.extend([0, extensions.len() as u8]);
    body.extend(extensions);
    record(1, &body)
}

#[test]
fn b06_a_tls_1_2_offer_is_refused() {
    let world = world();
    let (mut old, far) = pair();
    old.write_all(&old_client_hello()).expect("sent");
    let error = accept(far, &world.b, &world.roots, None).expect_err("refused");
    assert!(matches!(error, Error::Incompatible { .. }), "{error:?}");
    let mut alert = Vec::new();
    old.read_to_end(&mut alert).expect("read");
    // A fatal alert with the description protocol_version.
    assert_eq!((alert[0], &alert[5..]), (21, &[2, 70][..]), "{alert:?}");
}

#[test]
fn b06_an_answer_in_tls_1_2_is_refused() {
    let world = world();
    let (near, mut old) = pair();
    let answering = thread::spawn(move || {
        let mut start = [0; 5];
        old.read_exact(&mut start).expect("a hello");
        let mut hello = vec![0; usize::from(u16::from_be_bytes([start[3], start[4]]))];
        old.read_exact(&mut hello).expect("a hello");
        let session = &hello[39..39 + usize::from(hello[38])];
        let mut body = vec![3, 3];
        body.extend([9; 32]);
        body.push(session.len() as u8);
        body.extend(session);
        body.extend([0xc0, 0x2b, 0, 0, 0]);
        old.write_all(&record(2, &body)).expect("sent");
        let _rest = old.read_to_end(&mut Vec::new());
    });
    let error = connect(near, &world.a, &world.roots, None).expect_err("refused");
    assert!(matches!(error, Error::Incompatible { .. }), "{error:?}");
    answering.join().expect("no panic");
}

#[test]
fn both_sides_know_each_other_and_what_only_they_know() {
    let world = world();
    let (a, b) = sessions(&world);
    assert_eq!((a.provider.as_str(), b.provider.as_str()), ("bolt", "acme"));
    assert_eq!((a.own_spki, a.peer_spki), (world.a.spki(), world.b.spki()));
    assert_eq!((b.own_spki, b.peer_spki), (world.b.spki(), world.a.spki()));
    assert_eq!(a.exporter, b.exporter);
    let (c, d) = sessions(&world);
    assert_eq!(c.exporter, d.exporter);
    assert_ne!(a.exporter, c.exporter, "two sessions share nothing");
    assert_ne!(a.exporter, [0; 32]);
}

/// What `b`'s side finds when `a` has another identity, and `a`'s own result.
fn refused(world: &World, a: &TlsIdentity) -> PeerError {
    let (near, far) = shake(world, a, &world.b, pair());
    // The side that asks is done before the other one has seen its certificate.
    if let Ok(mut session) = near {
        let told = session.reader.read(&mut [0]).expect_err("the refusal arrives");
        let told = told.into_inner().expect("a reason").downcast::<Error>().expect("ours");
        assert!(matches!(*told, Error::Refused(_)), "{told:?}");
    }
    match far.expect_err("refused") {
        Error::Peer(refused) => refused,
        other => panic!("{other:?}"),
    }
}

/// The same, of a wrong certificate at the side that is asked.
fn refused_by_client(world: &World, b: &TlsIdentity) -> PeerError {
    let (near, far) = shake(world, &world.a, b, pair());
    assert!(matches!(far, Err(Error::Refused(_))), "{far:?}");
    match near.expect_err("refused") {
        Error::Peer(refused) => refused,
        other => panic!("{other:?}"),
    }
}

#[test]
fn certificates_of_unknown_providers_are_refused() {
    let world = world();
    // Somebody who gives himself a known name.
    let stranger = provider("acme").keep();
    let known = vec!["acme".to_owned(), "bolt".to_owned()];
    assert_eq!(refused(&world, &stranger), PeerError::UnknownProvider(known.clone()));
    assert_eq!(refused_by_client(&world, &stranger), PeerError::UnknownProvider(known));
    let nobody = Roots::new();
    let (near, far) = pair();
    let asking = thread::scope(|scope| {
        scope.spawn(|| accept(far, &world.b, &world.roots, None));
        connect(near, &world.a, &nobody, None)
    });
    assert!(matches!(asking, Err(Error::Peer(PeerError::UnknownProvider(known))) if known.is_empty()));
}

#[test]
fn certificates_that_have_expired_are_refused() {
    let world = world();
    let key = new_key();
    let late = identity(world.acme.certify(&key, Duration::ZERO), &key).expect("it fits");
    // Dates of certificates are in seconds.
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(refused(&world, &late), PeerError::NotValidNow);
    assert_eq!(refused_by_client(&world, &late), PeerError::NotValidNow);
}

#[test]
fn a_provider_speaks_for_itself_only() {
    let world = world();
    let mut roots = Roots::new();
    roots.add("acme", world.acme.certificate()).expect("a root");
    // Whoever signs, the name is that of the provider whose root it is, whatever the certificate says.
    let poser = provider("acme");
    roots.add("evil", poser.certificate()).expect("a root");
    let (near, far) = pair();
    let asked = thread::scope(|scope| {
        let asked = scope.spawn(|| accept(far, &world.b, &roots, None).map(|session| session.provider));
        let _session = connect(near, &poser.keep(), &world.roots, None);
        asked.join().expect("no panic")
    });
    assert_eq!(asked.expect("a session"), "evil");
    // Two providers cannot share a key, and everyone has a name.
    assert!(matches!(roots.add("other", world.acme.certificate()), Err(Error::Root { .. })));
    assert!(matches!(roots.add("", world.bolt.certificate()), Err(Error::Root { .. })));
    assert!(matches!(roots.add("third", b"no certificate"), Err(Error::Root { .. })));
    assert_eq!(roots.names().collect::<Vec<_>>(), ["acme", "evil"]);
}

#[test]
fn only_the_provider_that_was_expected_is_accepted() {
    let world = world();
    let with = |expected: &str| {
        let (near, far) = pair();
        thread::scope(|scope| {
            scope.spawn(|| accept(far, &world.b, &world.roots, Some("acme")).map(drop));
            connect(near, &world.a, &world.roots, Some(expected)).map(|session| session.provider)
        })
    };
    assert_eq!(with("bolt").expect("a session"), "bolt");
    let (found, expected) = ("bolt".to_owned(), "acme".to_owned());
    let refusal = with("acme").expect_err("refused");
    assert!(matches!(refusal, Error::Peer(error) if error == PeerError::OtherProvider { found, expected }));
}

/// The library's client with everything allowed that a client may wish for.
fn eager_client(world: &World, own: Option<CertifiedKey>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(world.bolt.certificate())).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_webpki_verifier(verifier.build().expect("a verifier"));
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::in_memory_sessions(8);
    config.enable_early_data = true;
    config.alpn_protocols = vec![b"dunlin/1".to_vec()];
    config
}

fn certified(provider: &Provider) -> CertifiedKey {
    let key = new_key();
    key_with(&key, provider.certify(&key, HOUR))
}

/// A key under a certificate, whether it is that of the key or not.
fn key_with(key: &PrivateKey, chain: Vec<Vec<u8>>) -> CertifiedKey {
    let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_pkcs8().expect("encodes").to_vec()));
    let secret = rustls::crypto::ring::default_provider().key_provider.load_private_key(secret).expect("a key");
    CertifiedKey::new(chain.into_iter().map(CertificateDer::from).collect(), secret)
}

/// The library's client against our server: its connection, and what our side has.
fn eager(config: &Arc<ClientConfig>, world: &World) -> (ClientConnection, bool, Result<Session, Error>) {
    let name = ServerName::try_from(TLS_NAME).expect("a name");
    let mut client = ClientConnection::new(config.clone(), name).expect("a client");
    let early = client.early_data().is_some();
    let (mut near, far) = pair();
    let asked = thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let mut session = accept(far, &world.b, &world.roots, None)?;
            // One byte, so that a client that is refused learns of it, and whatever came before it has come.
            session.writer.write_all(b"!").map_err(Error::Io)?;
            Ok(session)
        });
        while client.is_handshaking() || client.reader().read(&mut [0]).is_err() {
            // Neither read nor written: the stream is at its end.
            if matches!(client.complete_io(&mut near), Err(_) | Ok((0, 0))) {
                break;
            }
        }
        asked.join().expect("no panic")
    });
    (client, early, asked)
}

#[test]
fn b05_b07_a_client_that_wants_to_resume_or_send_early_cannot() {
    let world = world();
    let config = Arc::new(eager_client(&world, Some(certified(&world.acme))));
    let mut exporters = Vec::new();
    for _ in 0..2 {
        let (client, early, asked) = eager(&config, &world);
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(client.tls13_tickets_received(), 0, "no ticket comes");
        assert!(!early, "there is nothing to send early under");
        exporters.push(asked.expect("a session").exporter);
    }
    assert_ne!(exporters[0], exporters[1]);
}

#[test]
fn b05_b07_a_server_that_wants_clients_to_resume_is_not_followed() {
    let world = world();
    let mut client_roots = RootCertStore::empty();
    client_roots.add(CertificateDer::from(world.acme.certificate())).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(client_roots), provider.clone());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_client_cert_verifier(clients.build().expect("a verifier"))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified(&world.bolt))));
    config.send_tls13_tickets = 4;
    config.max_early_data_size = 16 * 1024;
    config.alpn_protocols = vec![b"dunlin/1".to_vec()];
    let config = Arc::new(config);
    for _ in 0..2 {
        let mut server = ServerConnection::new(config.clone()).expect("a server");
        let (near, mut far) = pair();
        thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut session = connect(near, &world.a, &world.roots, None).expect("a session");
                // The tickets come before this byte.
                session.reader.read_exact(&mut [0]).expect("a byte");
            });
            while server.is_handshaking() {
                server.complete_io(&mut far).expect("a handshake");
            }
            server.writer().write_all(b"!").expect("room");
            server.complete_io(&mut far).expect("sent");
            asking.join().expect("no panic");
        });
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
        assert!(server.early_data().is_none());
    }
}

#[test]
fn a_side_without_a_certificate_is_refused() {
    let world = world();
    let (_, _, asked) = eager(&Arc::new(eager_client(&world, None)), &world);
    assert!(matches!(asked, Err(Error::Peer(PeerError::None))), "{asked:?}");
}

#[test]
fn a_side_that_names_another_protocol_or_none_is_refused() {
    let world = world();
    for protocols in [vec![b"http/1.1".to_vec()], Vec::new()] {
        let mut config = eager_client(&world, Some(certified(&world.acme)));
        config.alpn_protocols = protocols;
        let (_, _, asked) = eager(&Arc::new(config), &world);
        assert!(matches!(asked, Err(Error::Incompatible { .. })), "{asked:?}");
    }
}

#[test]
fn b08_a_certificate_that_is_not_of_the_key_is_refused() {
    let world = world();
    let (thief, owner) = (new_key(), new_key());
    let chain = world.acme.certify(&owner, HOUR);
    assert!(matches!(identity(chain.clone(), &thief), Err(Error::Identity(_))), "not even here");
    assert!(identity(chain.clone(), &owner).is_ok());
    let config = eager_client(&world, Some(key_with(&thief, chain)));
    let (_, _, asked) = eager(&Arc::new(config), &world);
    assert!(matches!(asked, Err(Error::Protocol(_))), "{asked:?}");
}

#[test]
fn roots_and_machines_are_no_keeps_and_keeps_certify_nobody() {
    let world = world();
    let root = identity(vec![world.acme.certificate().to_vec()], &world.acme.key).expect("it fits");
    let refusal = refused(&world, &root);
    assert!(matches!(refusal, PeerError::Unsound(_) | PeerError::OtherName(_)), "{refusal:?}");
    // A keep that signs for another key, as if it were a machine.
    let (keep, other) = (new_key(), new_key());
    let chain = world.acme.node.certify_keep(keep.public(), HOUR).expect("a certificate");
    let false_machine = dunlin_identity::Issuer::new(keep, chain).expect("it fits");
    let chain = false_machine.certify_keep(other.public(), HOUR);
    let other = identity(chain.expect("a certificate"), &other).expect("it fits");
    let refusal = refused(&world, &other);
    assert!(matches!(refusal, PeerError::Unsound(_) | PeerError::UnknownProvider(_)), "{refusal:?}");
    assert_eq!(CERTIFICATE_NAME, TLS_NAME);
}

#[test]
fn an_identity_needs_a_certificate_and_a_key() {
    let world = world();
    let key = new_key();
    for chain in [Vec::new(), vec![b"none".to_vec()]] {
        assert!(matches!(identity(chain, &key), Err(Error::Identity(_))));
    }
    let chain = world.acme.certify(&key, HOUR);
    assert!(matches!(TlsIdentity::new(chain.clone(), b"no key".to_vec()), Err(Error::Identity(_))));
    // The hash of the public key is the name that the rest of the program has for it.
    let own = identity(chain, &key).expect("it fits");
    assert_eq!(own.spki().0, key.public().thumbprint().0);
}

#[test]
fn a_side_that_says_nothing_is_given_up() {
    let world = world();
    let (_silent, far) = pair();
    let error = accept_within(Duration::from_millis(50), far, &world.b, &world.roots, None).expect_err("given up");
    assert!(matches!(error, Error::TooSlow(_)), "{error:?}");
}

#[test]
fn a_handshake_that_is_cut_anywhere_gives_an_error_and_no_session() {
    let world = world();
    let untouched = relay(Tamper::No, Tamper::No);
    let (there, back) = (untouched.there.clone(), untouched.back.clone());
    let (streams, _threads) = untouched.split();
    let (near, far) = shake(&world, &world.a, &world.b, streams);
    assert!(near.is_ok() && far.is_ok());
    let load = |count: &std::sync::atomic::AtomicUsize| count.load(std::sync::atomic::Ordering::SeqCst);
    let (there, back) = (load(&there), load(&back));
    assert!(there > 700 && back > 700, "{there} and {back} bytes");
    // Signatures are one to three bytes shorter now and then.
    for at in 0..there - 8 {
        let (streams, threads) = relay(Tamper::CutAt(at), Tamper::No).split();
        let (near, far) = shake(&world, &world.a, &world.b, streams);
        let error = far.expect_err("nothing whole came");
        assert!(matches!(error, Error::Cut | Error::Io(_)), "{at}: {error:?}");
        // The side that asks may be done; then the stream under it is cut.
        if let Ok(mut session) = near {
            assert!(session.reader.read(&mut [0]).is_err(), "{at}");
        }
        support::Relay::join(threads);
    }
    for at in 0..back - 8 {
        let (streams, threads) = relay(Tamper::No, Tamper::CutAt(at)).split();
        let (near, far) = shake(&world, &world.a, &world.b, streams);
        assert!(matches!(near, Err(Error::Cut | Error::Io(_))) && far.is_err(), "{at}");
        support::Relay::join(threads);
    }
}

#[test]
fn a_handshake_that_is_changed_anywhere_gives_no_session_or_the_same_one() {
    let world = world();
    let mut same = 0;
    for at in 0..700 {
        for (there, back) in [(Tamper::FlipAt(at), Tamper::No), (Tamper::No, Tamper::FlipAt(at))] {
            let (streams, _threads) = relay(there, back).split();
            let (near, far) = thread::scope(|scope| {
                let (near, far) = streams;
                let asked = scope.spawn(|| accept_within(Duration::from_secs(1), far, &world.b, &world.roots, None));
                let asking = connect(near, &world.a, &world.roots, None);
                (asking, asked.join().expect("no panic"))
            });
            if let (Ok(near), Ok(far)) = (near, far) {
                // Bytes that say nothing: versions of records, which nobody reads.
                same += 1;
                assert_eq!(near.exporter, far.exporter, "byte {at} with {there:?}");
            }
        }
    }
    assert!(same < 40, "{same} of 1400 changes had no effect");
}
