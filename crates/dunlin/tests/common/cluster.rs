//! Nodes as processes of their own, so that each can be killed, and what is asked of them.
#![allow(dead_code, reason = "each test program uses its part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Ran, Scratch, built};

/// Nothing takes longer than this unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A realm on this machine.
pub(crate) struct Cluster {
    pub scratch: Scratch,
    names: Vec<String>,
    nodes: BTreeMap<String, Daemon>,
    /// Where each node listens, and the relay by which the others reach it, if they speak TCP.
    wires: BTreeMap<String, (String, Relay)>,
    /// Arguments of all nodes besides the usual ones.
    more: Vec<String>,
    /// Arguments of single nodes.
    own: BTreeMap<&'static str, Vec<String>>,
}

struct Daemon {
    child: Child,
    messages: Receiver<String>,
}

impl Cluster {
    /// Starts these nodes; the first one keeps the ledger.
    pub(crate) fn new(name: &str, nodes: &[&str]) -> Self {
        let scratch = Scratch::new(name);
        Self::with(scratch, nodes, BTreeMap::new(), Vec::new())
    }

    /// The same, with these arguments besides.
    pub(crate) fn in_scratch(scratch: Scratch, nodes: &[&str], more: Vec<String>) -> Self {
        Self::with(scratch, nodes, BTreeMap::new(), more)
    }

    /// The same, with arguments for single nodes.
    pub(crate) fn with_own(scratch: Scratch, nodes: &[&str], own: BTreeMap<&'static str, Vec<String>>) -> Self {
        let mut cluster = Self::in_scratch(scratch, &[], Vec::new());
        cluster.names = nodes.iter().map(|name| (*name).to_owned()).collect();
        cluster.own = own;
        for name in nodes {
            cluster.start(name);
        }
        cluster
    }

    /// The same, with nodes that reach each other over TCP, through relays that can be cut.
    pub(crate) fn over_tcp(name: &str, nodes: &[&str]) -> Self {
        let mut wires = BTreeMap::new();
        for name in nodes {
            // Free a moment ago, and given to nobody since if one is lucky: the system goes round.
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            wires.insert((*name).to_owned(), (port.to_string(), Relay::to(port.to_string())));
        }
        Self::with(Scratch::new(name), nodes, wires, Vec::new())
    }

    fn with(scratch: Scratch, nodes: &[&str], wires: BTreeMap<String, (String, Relay)>, more: Vec<String>) -> Self {
        let names = nodes.iter().map(|name| (*name).to_owned()).collect();
        let mut cluster = Self { scratch, names, nodes: BTreeMap::new(), wires, more, own: BTreeMap::new() };
        for name in nodes {
            cluster.start(name);
        }
        cluster
    }

    /// Signs this policy with the key of `key`, and tells where it is.
    pub(crate) fn policy(&self, key: &str, name: &str, text: &str) -> String {
        let (toml, signed) = (format!("{name}.toml"), self.scratch.path().join(name).display().to_string());
        self.scratch.write(&toml, text.as_bytes());
        let ran = self.scratch.dunlin(&["policy", "sign", "--key", key, "-o", &signed, &toml]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        signed
    }

    /// Where a node listens for others.
    pub(crate) fn listens(&self, name: &str) -> &str {
        &self.wires[name].0
    }

    /// Cuts all streams to a node; new ones can be made.
    pub(crate) fn cut(&self, name: &str) {
        self.wires[name].1.cut();
    }

    /// Records from now on what is sent to a node that is reached over TCP, and what it answers.
    pub(crate) fn record(&self, name: &str) -> Record {
        let record = Record::default();
        *self.wires[name].1.record.lock().unwrap() = Some(record.clone());
        record
    }

    /// Puts a relay in place of a node's Unix socket, and records what is sent to it from now on, and what it answers. There
    /// is no TLS between nodes on such a socket: this is what the nodes themselves see.
    pub(crate) fn tap(&self, name: &str) -> Record {
        let socket = self.dir().join("nodes").join(name).join("peer.sock");
        let moved = socket.with_extension("moved");
        fs::rename(&socket, &moved).unwrap();
        let listener = dunlin_node::socket::bind(&socket).unwrap();
        let record = Record::default();
        let seen = record.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = dunlin_node::socket::connect(&moved) else { continue };
                for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                    let seen = seen.clone();
                    std::thread::spawn(move || {
                        carry(&mut from, &mut to, Some(&seen));
                        let _cut = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        record
    }

    /// The process of a node.
    pub(crate) fn pid(&self, name: &str) -> u32 {
        self.nodes[name].child.id()
    }

    /// Starts a node, or starts it again.
    pub(crate) fn start(&mut self, name: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
        command.args(["node", "--name", name, "--dir"]).arg(self.dir()).args(&self.more);
        for peer in self.names.iter().filter(|other| *other != name) {
            let relay = self.wires.get(peer).map(|(_, relay)| format!("={}", relay.address)).unwrap_or_default();
            command.arg("--peer").arg(format!("{peer}{relay}"));
        }
        command.args(self.own.get(name).into_iter().flatten());
        if let Some((listen, _)) = self.wires.get(name) {
            command.args(["--listen", listen]);
        }
        let first = self.names.first().unwrap();
        if first != name {
            command.args(["--ledger", first]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (said, messages) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _nobody = said.send(line);
            }
        });
        let first = messages.recv_timeout(PATIENCE).unwrap_or_else(|_| "nothing".to_owned());
        if !first.contains("is up") {
            let more: Vec<_> = std::iter::from_fn(|| messages.recv_timeout(Duration::from_secs(1)).ok()).collect();
            panic!("node {name} says {first}\n{}", more.join("\n"));
        }
        self.nodes.insert(name.to_owned(), Daemon { child, messages });
    }

    /// Ends a node as `kill -TERM` does: its services are suspended.
    pub(crate) fn end(&mut self, name: &str) {
        let mut daemon = self.nodes.remove(name).unwrap();
        let pid = rustix::process::Pid::from_child(&daemon.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = daemon.child.wait().unwrap();
        assert!(status.success(), "{status}: {:?}", daemon.messages.try_iter().collect::<Vec<_>>());
    }

    /// Ends a node at once, as a machine that loses power does.
    pub(crate) fn kill(&mut self, name: &str) {
        let mut daemon = self.nodes.remove(name).unwrap();
        daemon.child.kill().unwrap();
        daemon.child.wait().unwrap();
    }

    pub(crate) fn is_up(&self, name: &str) -> bool {
        self.nodes.contains_key(name)
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.scratch.path().to_owned()
    }

    /// Processes that a node has started.
    pub(crate) fn keeps(&self, name: &str) -> Vec<u32> {
        let pid = self.nodes[name].child.id();
        let mut keeps = Vec::new();
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            keeps.extend(list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        keeps
    }

    /// Runs dunlin against node `at`.
    pub(crate) fn ask(&self, at: &str, arguments: &[&str]) -> Ran {
        let dir = self.dir();
        let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
        command.args(arguments).env("DUNLIN_DIR", &dir).env("DUNLIN_NODE", at).env_remove("COLUMNS");
        Ran::of(command.stdin(Stdio::null()).output().unwrap())
    }

    #[track_caller]
    pub(crate) fn json(&self, at: &str, arguments: &[&str]) -> Value {
        let ran = self.ask(at, arguments);
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}{}", ran.stdout, ran.stderr);
        ran.json()
    }

    /// Deploys a guest at a node; the address where it listens there.
    #[track_caller]
    pub(crate) fn deploy(&self, at: &str, guest: &str) -> String {
        let path = built(guest);
        let info = self.json(at, &["deploy", path.to_str().unwrap(), "--listen", "127.0.0.1:0", "--json"]);
        info["listen"][0].as_str().unwrap().to_owned()
    }

    /// What `ps` says about the one service, as node and state.
    pub(crate) fn place(&self, at: &str, service: &str) -> Option<(String, String)> {
        let ran = self.ask(at, &["ps", "--json"]);
        let list: Value = serde_json::from_str(&ran.stdout).ok()?;
        let line = list.as_array()?.iter().find(|line| line["name"] == service)?.clone();
        Some((line["node"].as_str()?.to_owned(), line["state"].as_str()?.to_owned()))
    }

    /// Waits until a service runs; the node where it does.
    #[track_caller]
    pub(crate) fn runs(&self, at: &str, service: &str) -> String {
        let until = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < until {
            last = self.place(at, service);
            if let Some((node, state)) = &last
                && state == "running"
            {
                return node.clone();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{service} does not run: {last:?}\n{}", self.ask(at, &["describe", service]).stdout);
    }

    /// Where clients reach a service through a node.
    #[track_caller]
    pub(crate) fn address(&self, node: &str, service: &str) -> String {
        self.known_address(node, service).expect("the node knows the service")
    }

    /// Where a node has bound a service's listener; `None` if it knows no such service.
    pub(crate) fn known_address(&self, node: &str, service: &str) -> Option<String> {
        let path = self.dir().join("nodes").join(node).join("services").join(service).join("service.json");
        let record: Value = serde_json::from_slice(&fs::read(path).ok()?).unwrap();
        Some(record["bound"][0].as_str().unwrap().to_owned())
    }

    #[track_caller]
    pub(crate) fn migrate(&self, service: &str, to: &str, options: &[&str]) -> Value {
        let at = self.nodes.keys().next().unwrap();
        // On a machine with other work to do, a pause says nothing.
        let mut arguments = vec!["migrate", service, "--to", to, "--json", "--max-downtime", "60s"];
        arguments.extend_from_slice(options);
        self.json(at, &arguments)
    }

    /// Everything that the nodes wrote down, for a test that fails.
    pub(crate) fn logs(&self, service: &str) -> String {
        let mut text = String::new();
        for name in &self.names {
            let folder = self.dir().join("nodes").join(name);
            for file in [folder.join("services").join(service).join("logs/log"), folder.join("keeps.log")] {
                text.push_str(&format!("--- {}\n", file.display()));
                text.push_str(&fs::read_to_string(file).unwrap_or_default());
            }
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in &self.names {
                let services = self.dir().join("nodes").join(name).join("services");
                for service in fs::read_dir(services).into_iter().flatten().flatten() {
                    eprintln!("{}", self.logs(&service.file_name().to_string_lossy()));
                }
            }
        }
        for daemon in self.nodes.values_mut() {
            let _gone = daemon.child.kill();
            let _gone = daemon.child.wait();
        }
    }
}

/// What was sent, of all streams and directions as it came.
pub(crate) type Record = Arc<Mutex<Vec<u8>>>;

/// Passes a direction on until it ends or is cut.
fn carry(from: &mut impl std::io::Read, to: &mut impl std::io::Write, record: Option<&Record>) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        if let Some(record) = record {
            record.lock().unwrap().extend_from_slice(&bytes[..length]);
        }
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
}

/// Passes connections on until they are cut.
pub(crate) struct Relay {
    address: String,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    /// Where to record the streams that begin from now on, if anywhere.
    record: Arc<Mutex<Option<Record>>>,
}

impl Relay {
    fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let streams = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::new(Mutex::new(None));
        let (kept, wanted) = (streams.clone(), record.clone());
        std::thread::spawn(move || {
            for incoming in listener.incoming().map_while(Result::ok) {
                let Ok(outgoing) = TcpStream::connect(&target) else { continue };
                kept.lock().unwrap().extend([incoming.try_clone().unwrap(), outgoing.try_clone().unwrap()]);
                for (mut from, mut to) in
                    [(incoming.try_clone().unwrap(), outgoing.try_clone().unwrap()), (outgoing, incoming)]
                {
                    let record: Option<Record> = wanted.lock().unwrap().clone();
                    std::thread::spawn(move || {
                        carry(&mut from, &mut to, record.as_ref());
                        let _cut = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        Self { address, streams, record }
    }

    fn cut(&self) {
        for stream in self.streams.lock().unwrap().drain(..) {
            let _over = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A client of the service that speaks the Redis protocol.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) fn connect(address: &str) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    pub(crate) fn try_connect(address: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.try_ask(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    pub(crate) fn try_ask(&mut self, command: &str) -> std::io::Result<String> {
        self.send(command)?;
        self.answer()
    }

    pub(crate) fn send(&mut self, command: &str) -> std::io::Result<()> {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes())
    }

    /// The next line of an answer.
    pub(crate) fn answer(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// Ends the client's direction.
    pub(crate) fn end(&self) {
        self.0.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    /// Whatever still comes until the other side ends, too.
    pub(crate) fn rest(&mut self) -> std::io::Result<String> {
        let mut text = String::new();
        self.0.read_to_string(&mut text)?;
        Ok(text)
    }
}
