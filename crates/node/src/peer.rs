//! Streams between nodes: who calls says in one greeting what the stream is for, and hears whether it will be served.
//!
//! ```text
//!   caller  u32 length, JSON {version, from, hello}    ──>  answering node
//!           <──  u32 length, JSON reply                     then whatever the hello named, in both directions
//! ```
//!
//! Over a Unix socket a stream is plain: whoever may open the socket's file is this user. Over TCP it is mutual TLS 1.3
//! between machines of known providers; inside the node it then is a Unix stream, too, so that keeps can be given it.

use std::io::{self, Read, Write};
use std::net::ToSocketAddrs as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use dunlin_identity::{Issuer, Names, PrivateKey};
use dunlin_transport::{Roots, Session, TlsIdentity};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::config::{Address, NodeKeys};
use crate::error::NodeError;
use crate::record::{Document, Subject};
use crate::socket;

/// The version of these greetings.
const VERSION: u16 = 1;
/// Longest greeting or reply.
const LIMIT: u32 = 2 << 20;
/// How long a node may take to connect and to answer a greeting.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the certificate holds under which a node speaks to others: longer than it runs.
const CERTIFIED: Duration = Duration::from_secs(365 * 86_400);
/// Bytes that are passed on at once between TLS and a Unix stream.
const PUMPED: usize = 256 << 10;

/// Who calls: a name, and a key that its provider certified.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    name: String,
    identity: Arc<TlsIdentity>,
    roots: Arc<Roots>,
}

impl Caller {
    pub(crate) fn new(name: &str, keys: &NodeKeys) -> Result<Self, NodeError> {
        let tls = |error: dunlin_transport::Error| NodeError::System {
            what: "speak TLS with its keys",
            source: io::Error::other(error),
        };
        // A machine's own certificate may only sign others.
        let key = PrivateKey::generate()?;
        let issuer = Issuer::new(keys.platform.clone(), keys.chain.clone())?;
        let chain = issuer.certify_keep(key.public(), CERTIFIED)?;
        let identity = TlsIdentity::new(chain, key.to_pkcs8()?.to_vec()).map_err(tls)?;
        let mut roots = Roots::new();
        for root in &keys.roots {
            roots.add(&Names::of(root)?.provider, root).map_err(tls)?;
        }
        Ok(Self { name: name.to_owned(), identity: Arc::new(identity), roots: Arc::new(roots) })
    }

    /// A TCP connection, as a Unix stream whose other end is the other side's of a TLS session. Blocks for the handshake.
    fn wrap(&self, stream: std::net::TcpStream, side: Side) -> io::Result<StdUnixStream> {
        stream.set_nodelay(true)?;
        let session = match side {
            Side::Calling => dunlin_transport::connect(stream, &self.identity, &self.roots, None),
            Side::Called => dunlin_transport::accept(stream, &self.identity, &self.roots, None),
        };
        let Session { mut reader, mut writer, closer, .. } = session.map_err(io::Error::other)?;
        let (ours, theirs) = StdUnixStream::pair()?;
        let (mut outgoing, mut incoming) = (theirs.try_clone()?, theirs);
        let pump = || thread::Builder::new().name("dunlin-tls".to_owned()).stack_size(256 << 10);
        pump().spawn(move || {
            let how = if pass_on(&mut reader, &mut incoming).is_ok() {
                std::net::Shutdown::Write
            } else {
                std::net::Shutdown::Both
            };
            // It fails if the node has closed its end already.
            let _closed = incoming.shutdown(how);
        })?;
        pump().spawn(move || {
            if pass_on(&mut outgoing, &mut writer).and_then(|()| writer.finish()).is_err() {
                closer.close();
            }
        })?;
        Ok(ours)
    }

    async fn secure(&self, stream: TcpStream, side: Side) -> io::Result<UnixStream> {
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        let caller = self.clone();
        let wrapped =
            tokio::task::spawn_blocking(move || caller.wrap(stream, side)).await.map_err(io::Error::other)??;
        wrapped.set_nonblocking(true)?;
        UnixStream::from_std(wrapped)
    }
}

#[derive(Debug, Clone, Copy)]
enum Side {
    Calling,
    Called,
}

fn pass_on(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut bytes = vec![0; PUMPED];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                to.write_all(&bytes[..length])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What a stream is for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub(crate) enum Hello {
    /// Requests to the HTTP API.
    Http,
    /// Questions to the ledger that this node keeps.
    Ledger,
    /// A keep wants to speak with the broker, which this node has or knows the way to.
    Broker { subject: Box<Subject> },
    /// A keep wants to give a service to a keep of this node.
    Migrate { migration: String, document: Box<Document>, dry_run: bool },
    /// The stream of a migration was lost; this is a new one.
    Reconnect { migration: String },
    /// A new connection to a service that is here.
    Connect { service: String, listener: u32 },
    /// A connection that moved here with a migration.
    Carried { migration: String, connection: String, part: Part },
}

/// Which part of a connection that moved a stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Part {
    /// Both directions; nothing came before.
    Whole,
    /// Both directions; what the client sent comes after what `Tail` carries.
    AfterTail,
    /// What was on its way to the program at the node before this one.
    Tail,
}

/// What the caller says first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Greeting {
    version: u16,
    from: String,
    hello: Hello,
}

/// What a node answers to a greeting.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub(crate) enum Reply {
    Ready,
    /// The service is at this node now.
    Moved {
        node: String,
    },
    /// Not now; it may work in a moment.
    Later {
        reason: String,
    },
    Refused {
        reason: String,
    },
}

/// The stream of a greeting that was read.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) from: String,
    pub(crate) hello: Hello,
    pub(crate) stream: UnixStream,
}

/// A listener for other nodes.
#[derive(Debug)]
pub(crate) enum PeerListener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl PeerListener {
    pub(crate) async fn bind(address: &Address) -> Result<Self, NodeError> {
        let failed = |source| NodeError::Listen { address: address.to_string(), source };
        Ok(match address {
            Address::Unix(path) => Self::Unix(listen(path).map_err(failed)?),
            Address::Tcp(address) => Self::Tcp(TcpListener::bind(address).await.map_err(failed)?),
        })
    }

    /// Where it listens really.
    pub(crate) fn address(&self, asked: &Address) -> Address {
        match self {
            Self::Unix(_) => asked.clone(),
            Self::Tcp(listener) => listener.local_addr().map_or(asked.clone(), |at| Address::Tcp(at.to_string())),
        }
    }

    pub(crate) async fn accept(&self) -> io::Result<Accepted> {
        Ok(match self {
            Self::Unix(listener) => Accepted::Unix(listener.accept().await?.0),
            Self::Tcp(listener) => Accepted::Tcp(listener.accept().await?.0),
        })
    }
}

/// A stream of somebody who has not said anything.
#[derive(Debug)]
pub(crate) enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A listener of the runtime.
pub(crate) fn listen(path: &std::path::Path) -> io::Result<UnixListener> {
    let listener = socket::bind(path)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Connects to another node, greets it and hears its reply.
pub(crate) async fn connect(address: &Address, caller: &Caller, hello: &Hello) -> io::Result<(UnixStream, Reply)> {
    let call = async {
        let mut stream = match address {
            Address::Unix(path) => socket::connect_async(path)?,
            Address::Tcp(address) => caller.secure(TcpStream::connect(address).await?, Side::Calling).await?,
        };
        stream.write_all(&greeting(&caller.name, hello)?).await?;
        let reply = read(&mut stream).await?;
        Ok((stream, reply))
    };
    tokio::time::timeout(PATIENCE, call).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The same for a thread that may block, and for hellos that are served or refused.
pub(crate) fn connect_blocking(
    address: &Address,
    caller: &Caller,
    hello: &Hello,
    patience: Duration,
) -> io::Result<StdUnixStream> {
    let mut stream = match address {
        Address::Unix(path) => socket::connect(path)?,
        Address::Tcp(address) => {
            let found = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
            caller.wrap(std::net::TcpStream::connect_timeout(&found, patience)?, Side::Calling)?
        }
    };
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(&greeting(&caller.name, hello)?)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = bounded(u32::from_le_bytes(length))?;
    let mut bytes = Vec::new();
    (&mut stream).take(length).read_to_end(&mut bytes)?;
    match serde_json::from_slice(&bytes)? {
        Reply::Ready => Ok(stream),
        Reply::Moved { node } => Err(io::Error::other(format!("it is at {node}"))),
        Reply::Later { reason } | Reply::Refused { reason } => Err(io::Error::other(reason)),
    }
}

/// Reads the greeting of who called.
pub(crate) async fn greet(accepted: Accepted, caller: &Caller) -> io::Result<Incoming> {
    let mut stream = match accepted {
        Accepted::Unix(stream) => stream,
        Accepted::Tcp(stream) => caller.secure(stream, Side::Called).await?,
    };
    let Greeting { version, from, hello } = tokio::time::timeout(PATIENCE, read(&mut stream))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    if version != VERSION {
        let reason = format!("greetings have version {VERSION} here, not {version}: nodes must be of one release");
        reply(&mut stream, &Reply::Refused { reason }).await?;
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Incoming { from, hello, stream })
}

pub(crate) async fn reply(stream: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    stream.write_all(&framed(reply)?).await
}

fn greeting(from: &str, hello: &Hello) -> io::Result<Vec<u8>> {
    framed(&Greeting { version: VERSION, from: from.to_owned(), hello: hello.clone() })
}

fn framed(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(value)?;
    let mut bytes = (json.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&json);
    Ok(bytes)
}

fn bounded(length: u32) -> io::Result<u64> {
    if length <= LIMIT {
        return Ok(length.into());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("a greeting of {length} bytes, at most {LIMIT} are read")))
}

/// What comes behind a length. Nothing beyond it is read.
pub(crate) async fn read<T: for<'de> Deserialize<'de>>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
    let length = bounded(stream.read_u32_le().await?)?;
    let mut bytes = Vec::new();
    // Grows as bytes arrive.
    stream.take(length).read_to_end(&mut bytes).await?;
    if (bytes.len() as u64) < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&bytes)?)
}

/// Both directions of any stream socket.
pub(crate) type Halves = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(name: &str, provider: &Issuer, root: &Issuer) -> Caller {
        let platform = PrivateKey::generate().unwrap();
        let chain = provider.certify_node(name, platform.public(), CERTIFIED).unwrap();
        let roots = vec![root.chain().last().unwrap().clone()];
        let owner = PrivateKey::generate().unwrap();
        Caller::new(name, &NodeKeys { platform, chain, roots, owner }).unwrap()
    }

    fn nobody() -> Caller {
        let provider = Issuer::provider("north", PrivateKey::generate().unwrap(), CERTIFIED).unwrap();
        caller("a", &provider, &provider)
    }

    #[tokio::test]
    async fn over_tcp_only_machines_of_known_providers_are_heard() {
        let [north, south] =
            ["north", "south"].map(|name| Issuer::provider(name, PrivateKey::generate().unwrap(), CERTIFIED).unwrap());
        let called = caller("a", &north, &north);
        let listener = PeerListener::bind(&Address::Tcp("127.0.0.1:0".to_owned())).await.unwrap();
        let address = listener.address(&Address::Tcp(String::new()));
        let serving = tokio::spawn(async move {
            let mut heard = Vec::new();
            for _ in 0..2 {
                let incoming = greet(listener.accept().await.unwrap(), &called).await;
                if let Ok(mut incoming) = incoming {
                    heard.push(incoming.from);
                    reply(&mut incoming.stream, &Reply::Ready).await.unwrap();
                    let mut bytes = vec![0; 1_000_000];
                    incoming.stream.read_exact(&mut bytes).await.unwrap();
                    incoming.stream.write_all(&bytes).await.unwrap();
                    incoming.stream.shutdown().await.unwrap();
                }
            }
            heard
        });
        // Somebody whose provider node a does not know.
        assert!(connect(&address, &caller("x", &south, &north), &Hello::Http).await.is_err());
        let (mut stream, answer) = connect(&address, &caller("b", &north, &north), &Hello::Http).await.unwrap();
        assert!(matches!(answer, Reply::Ready));
        let sent: Vec<u8> = (0..1_000_000_u32).map(|at| (at >> 3) as u8).collect();
        let (mut reader, mut writer) = stream.split();
        let mut got = Vec::new();
        let (written, read) = tokio::join!(writer.write_all(&sent), reader.read_to_end(&mut got));
        written.unwrap();
        read.unwrap();
        assert!(got == sent);
        assert_eq!(serving.await.unwrap(), ["b"]);
    }

    #[tokio::test]
    async fn a_greeting_is_bounded_and_of_one_version() {
        let (mut caller, called) = UnixStream::pair().unwrap();
        caller.write_all(&greeting("a", &Hello::Http).unwrap()).await.unwrap();
        let incoming = greet(Accepted::Unix(called), &nobody()).await.unwrap();
        assert_eq!(incoming.from, "a");
        assert!(matches!(incoming.hello, Hello::Http));
        let refused: [&[u8]; 4] = [
            &[255, 255, 255, 255],
            &[2, 0, 0, 0, b'{', b'}'],
            &[3, 0, 0, 0, b'{'],
            &[4, 0, 0, 0, b'n', b'u', b'l', b'l'],
        ];
        for bytes in refused {
            let (mut caller, called) = UnixStream::pair().unwrap();
            caller.write_all(bytes).await.unwrap();
            caller.shutdown().await.unwrap();
            assert!(greet(Accepted::Unix(called), &nobody()).await.is_err(), "{bytes:?}");
        }
        let (mut caller, called) = UnixStream::pair().unwrap();
        let other = framed(&Greeting { version: 9, from: "a".to_owned(), hello: Hello::Http }).unwrap();
        caller.write_all(&other).await.unwrap();
        assert!(greet(Accepted::Unix(called), &nobody()).await.is_err());
        assert!(
            matches!(read::<Reply>(&mut caller).await.unwrap(), Reply::Refused { reason } if reason.contains("not 9"))
        );
    }
}
