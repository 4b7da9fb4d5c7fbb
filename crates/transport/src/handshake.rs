//! From a stream to a session.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::{DnsName, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, Connection, HandshakeKind, ServerConfig, ServerConnection};

use crate::error::{Error, PeerError};
use crate::identity::{Roots, TlsIdentity};
use crate::session::Session;
use crate::socket::Socket;
use crate::verify::{Peer, PeerVerifier, provider};

/// The application protocol that both sides must name.
pub const PROTOCOL: &str = "dunlin/1";
/// The label under which both sides derive what ties evidence to this very session.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-dunlin-attested-channel";
/// How long a handshake may take.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Opens a session from the side that asked for the stream. The other side must be of the provider `expected`, or of
/// any provider in `roots`.
///
/// Whether the other side accepts *this* side is known only when the first bytes come from it.
///
/// # Errors
/// [`Error`]; the stream is closed then.
pub fn connect(
    stream: impl Into<Socket>,
    identity: &TlsIdentity,
    roots: &Roots,
    expected: Option<&str>,
) -> Result<Session, Error> {
    connect_within(HANDSHAKE_LIMIT, stream, identity, roots, expected)
}

/// As [`connect`], with another limit.
///
/// # Errors
/// As [`connect`].
pub fn connect_within(
    limit: Duration,
    stream: impl Into<Socket>,
    identity: &TlsIdentity,
    roots: &Roots,
    expected: Option<&str>,
) -> Result<Session, Error> {
    let verifier = Arc::new(PeerVerifier::new(roots, expected));
    let mut config = ClientConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::of_tls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified())));
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.alpn_protocols = vec![PROTOCOL.as_bytes().to_vec()];
    // No name is sent or looked up: the certificate must be of the right provider, which the verifier checks.
    let nobody = DnsName::try_from("peer.invalid").map_err(|error| Error::Identity(error.to_string()))?;
    let connection = ClientConnection::new(Arc::new(config), ServerName::DnsName(nobody)).map_err(Error::of_tls)?;
    open(connection.into(), stream.into(), &verifier, identity, limit)
}

/// Opens a session from the side that was asked.
///
/// # Errors
/// As [`connect`].
pub fn accept(
    stream: impl Into<Socket>,
    identity: &TlsIdentity,
    roots: &Roots,
    expected: Option<&str>,
) -> Result<Session, Error> {
    accept_within(HANDSHAKE_LIMIT, stream, identity, roots, expected)
}

/// As [`accept`], with another limit.
///
/// # Errors
/// As [`connect`].
pub fn accept_within(
    limit: Duration,
    stream: impl Into<Socket>,
    identity: &TlsIdentity,
    roots: &Roots,
    expected: Option<&str>,
) -> Result<Session, Error> {
    let verifier = Arc::new(PeerVerifier::new(roots, expected));
    let mut config = ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::of_tls)?
        .with_client_cert_verifier(verifier.clone())
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified())));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    config.alpn_protocols = vec![PROTOCOL.as_bytes().to_vec()];
    let connection = ServerConnection::new(Arc::new(config)).map_err(Error::of_tls)?;
    open(connection.into(), stream.into(), &verifier, identity, limit)
}

fn open(
    mut connection: Connection,
    socket: Socket,
    verifier: &PeerVerifier,
    identity: &TlsIdentity,
    limit: Duration,
) -> Result<Session, Error> {
    let early = match shake(&mut connection, &socket, limit) {
        Ok(early) => early,
        Err(error) => {
            socket.shutdown(std::net::Shutdown::Both);
            return Err(match verifier.found() {
                Some(Err(refused)) => Error::Peer(refused),
                _ => error,
            });
        }
    };
    let Peer { provider, spki } = verifier.found().unwrap_or(Err(PeerError::None)).map_err(Error::Peer)?;
    // The settings allow nothing else; an exporter that two sessions share would make evidence good for both.
    let full = [HandshakeKind::Full, HandshakeKind::FullWithHelloRetryRequest];
    if !connection.handshake_kind().is_some_and(|kind| full.contains(&kind)) {
        let what = format!("a resumed session ({:?})", connection.handshake_kind());
        return Err(Error::Incompatible { protocol: PROTOCOL, what });
    }
    if connection.alpn_protocol() != Some(PROTOCOL.as_bytes()) {
        let what = "it named no application protocol".to_owned();
        return Err(Error::Incompatible { protocol: PROTOCOL, what });
    }
    let exporter = connection.export_keying_material([0; 32], EXPORTER_LABEL, None).map_err(Error::of_tls)?;
    socket.set_limit(None).and_then(|()| socket.without_delay()).map_err(Error::Io)?;
    Ok(Session::new(connection, socket, early, provider, exporter, spki, identity.spki()))
}

/// Carries the handshake out, and gives back what came behind it.
fn shake(connection: &mut Connection, socket: &Socket, limit: Duration) -> Result<Vec<u8>, Error> {
    let end = Instant::now() + limit;
    let mut bytes = vec![0; 16 * 1024];
    loop {
        send(connection, socket, end, limit)?;
        if !connection.is_handshaking() {
            return Ok(Vec::new());
        }
        let read = patiently(socket, end, limit, |socket| socket.read(&mut bytes))?;
        let mut left = bytes.get(..read).unwrap_or_default();
        if left.is_empty() {
            return Err(Error::Cut);
        }
        while !left.is_empty() && connection.is_handshaking() {
            connection.read_tls(&mut left).map_err(Error::Io)?;
            if let Err(error) = connection.process_new_packets() {
                // The alert tells the other side why; if it does not arrive, the end of the stream does.
                let _told = send(connection, socket, end, limit);
                return Err(Error::of_tls(error));
            }
        }
        if !connection.is_handshaking() {
            send(connection, socket, end, limit)?;
            return Ok(left.to_vec());
        }
    }
}

fn send(connection: &mut Connection, socket: &Socket, end: Instant, limit: Duration) -> Result<(), Error> {
    let mut out = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut out).map_err(Error::Io)?;
    }
    if out.is_empty() {
        return Ok(());
    }
    patiently(socket, end, limit, |socket| socket.write_all(&out))
}

/// Does something on the stream that must be done before `end`.
fn patiently<T>(
    socket: &Socket,
    end: Instant,
    limit: Duration,
    act: impl FnOnce(&Socket) -> io::Result<T>,
) -> Result<T, Error> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Error::TooSlow(limit));
    }
    socket.set_limit(Some(left)).map_err(Error::Io)?;
    act(socket).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::TooSlow(limit),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Error::Cut,
        _ => Error::Io(error),
    })
}
