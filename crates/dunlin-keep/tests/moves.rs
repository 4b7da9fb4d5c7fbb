//! Two keeps, two nodes, one service that moves between them while a client talks to it.
#![allow(missing_docs, reason = "a test program")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::{Keep, Machine, PATIENCE, Wire, World, guest, is_live, join_connections, listener, migrate, options};
use dunlin_handover::MigrationId;
use dunlin_handover::converge::Mode;
use dunlin_keep_link::{ArrivedHow, LeftHow, Origin, Report, Role, Spec, StopHow};

/// A client that counts a number up, one request after the other, and checks every answer.
struct Client {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Client {
    fn start(address: SocketAddr) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ends = over.clone();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let thread = thread::spawn(move || {
            let mut answers = BufReader::new(stream.try_clone().unwrap());
            let mut count = 0_u64;
            while !ends.load(Ordering::SeqCst) {
                stream.write_all(b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n").unwrap();
                let mut line = String::new();
                answers.read_line(&mut line).unwrap();
                count += 1;
                // None was lost and none was done twice.
                assert_eq!(line, format!(":{count}\r\n"));
                thread::sleep(Duration::from_micros(200));
            }
            // The connection ends well, too.
            stream.write_all(b"*1\r\n$4\r\nQUIT\r\n").unwrap();
            let mut rest = String::new();
            answers.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "+OK\r\n");
            count
        });
        Self { address, over, thread }
    }

    fn end(self) -> u64 {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

struct Served {
    world: World,
    spec: Spec,
    listening: OwnedFd,
    client: Client,
}

impl Served {
    /// The Redis guest with a client, on the first of some machines.
    fn start(names: &[&str]) -> Option<(Self, Vec<Machine>, Keep)> {
        let world = World::new(guest("kv")?);
        let machines: Vec<Machine> = names.iter().map(|name| Machine::new(&world, name)).collect();
        let keep = machines[0].keep();
        let spec = world.spec(&["kv"]);
        let (listening, address) = listener();
        let more = vec![(Role::Listener, listening.try_clone().unwrap())];
        keep.start_service(&spec, Origin::First, more);
        keep.running();
        let client = Client::start(address);
        thread::sleep(Duration::from_millis(50));
        Some((Self { world, spec, listening, client }, machines, keep))
    }

    fn more(&self) -> Vec<(Role, OwnedFd)> {
        vec![(Role::Listener, self.listening.try_clone().unwrap())]
    }
}

fn moves_and_stays_connected(mode: Mode) {
    let Some((served, machines, first)) = Served::start(&["a", "b"]) else { return };
    let second = machines[1].keep();
    let (left, arrived) = migrate(&first, &second, &served.spec, options(mode), served.more());
    assert!(is_live(&arrived), "{arrived:?}");
    assert!(matches!(left.how, LeftHow::Moved { .. }), "{left:?}");
    assert_eq!(left.connections.len(), 1);
    join_connections(&first, &left, &second);
    let record = served.world.record();
    assert_eq!((record.holder, record.holder_platform), (Some(second.ready.holder), Some(machines[1].platform())));
    // After post-copy, both say once more how it went.
    if let ArrivedHow::Live { complete: false, .. } = arrived.how {
        let arrived = second.arrived();
        assert!(matches!(arrived.how, ArrivedHow::Live { complete: true, .. }), "{arrived:?}");
        let left = first.left();
        assert_eq!(left.how, LeftHow::Moved { confirmed: true });
    }
    assert!(first.wait().success());
    thread::sleep(Duration::from_millis(50));
    // A new client comes to the new keep, and a checkpoint can be taken there.
    let mut other = TcpStream::connect(served.client.address).unwrap();
    other.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
    let mut pong = [0; 7];
    other.read_exact(&mut pong).unwrap();
    assert_eq!(&pong, b"+PONG\r\n");
    assert_eq!(second.checkpoint().version, record.version + 1);
    assert!(served.client.end() > 10);
}

#[test]
fn stop_and_copy_keeps_the_connection() {
    moves_and_stays_connected(Mode::Stop);
}

#[test]
fn precopy_keeps_the_connection() {
    moves_and_stays_connected(Mode::Precopy);
}

#[test]
fn postcopy_keeps_the_connection() {
    moves_and_stays_connected(Mode::Postcopy);
}

#[test]
fn hybrid_keeps_the_connection() {
    moves_and_stays_connected(Mode::Hybrid);
}

#[test]
fn auto_keeps_the_connection() {
    moves_and_stays_connected(Mode::Auto);
}

#[test]
fn there_and_back_again_and_on() {
    let Some((served, machines, mut here)) = Served::start(&["a", "b", "c"]) else { return };
    let mut passed = Vec::new();
    for at in [1, 0, 2, 1] {
        let next = machines[at].keep();
        let (left, arrived) = migrate(&here, &next, &served.spec, options(Mode::Precopy), served.more());
        assert!(is_live(&arrived), "{arrived:?}");
        join_connections(&here, &left, &next);
        thread::sleep(Duration::from_millis(30));
        // The old node relays on.
        passed.push(core::mem::replace(&mut here, next));
    }
    assert_eq!(served.world.record().version, 4);
    assert!(served.client.end() > 10);
}

#[test]
fn a_dry_run_moves_nothing_and_says_what_blocks() {
    let Some((served, machines, first)) = Served::start(&["a", "b"]) else { return };
    let second = machines[1].keep();
    let dry = |id, spec: &Spec, more| {
        let Wire { source, destination, .. } = Wire::new();
        second.migrate_in(spec, MigrationId([id; 16]), destination, more);
        first.migrate_out(MigrationId([id; 16]), options(Mode::Auto), true, &source);
        let left = first.left();
        (left.how, second.arrived().how)
    };
    assert_eq!(dry(1, &served.spec, served.more()), (LeftHow::DryRun(Vec::new()), ArrivedHow::DryRun));
    // Without a listener, and with less memory than there is.
    let mut spec = served.spec.clone();
    spec.limits.memory_bytes = 1 << 16;
    let (left, arrived) = dry(2, &spec, Vec::new());
    let LeftHow::DryRun(blocked) = left else { panic!("{left:?}") };
    let texts: Vec<String> = blocked.iter().map(ToString::to_string).collect();
    assert!(texts.iter().any(|text| text.starts_with("host-lacks: listener 1")), "{texts:?}");
    assert!(texts.iter().any(|text| text.starts_with("resources: memory 0")), "{texts:?}");
    assert_eq!(arrived, ArrivedHow::Refused(blocked));
    assert_eq!(served.world.record().epoch, 2);
    assert_eq!((first.status().doing.as_str(), second.status().doing.as_str()), ("running", "waiting"));
    served.client.end();
}

#[test]
fn a_cancelled_move_leaves_the_source_serving() {
    let Some((served, machines, first)) = Served::start(&["a", "b"]) else { return };
    let second = machines[1].keep();
    let migration = MigrationId([5; 16]);
    let Wire { source, destination, .. } = Wire::new();
    second.migrate_in(&served.spec, migration, destination, served.more());
    // So slowly that there is time.
    let slow = dunlin_handover::converge::Options { bandwidth_limit: Some(4096), ..options(Mode::Precopy) };
    first.migrate_out(migration, slow, false, &source);
    first.expect("copying", |report| match report {
        Report::Phase(phase) if phase.name == "copying" => Some(()),
        _ => None,
    });
    first.cancel(migration);
    let left = first.left();
    assert!(matches!(left.how, LeftHow::Stayed { cancelled: true, epoch: 2, .. }), "{left:?}");
    assert!(matches!(second.arrived().how, ArrivedHow::Failed(_)));
    assert_eq!(first.status().doing, "running");
    assert_eq!(served.world.record().epoch, 2);
    // It can still move.
    let third = machines[1].keep();
    let (left, arrived) = migrate(&first, &third, &served.spec, options(Mode::Stop), served.more());
    assert!(is_live(&arrived));
    join_connections(&first, &left, &third);
    served.client.end();
}

#[test]
fn after_a_move_the_service_starts_again_where_it_went() {
    let Some((served, machines, first)) = Served::start(&["a", "b"]) else { return };
    let second = machines[1].keep();
    let (left, arrived) = migrate(&first, &second, &served.spec, options(Mode::Precopy), served.more());
    assert!(is_live(&arrived));
    join_connections(&first, &left, &second);
    thread::sleep(Duration::from_millis(20));
    let Served { world, spec, listening, client } = served;
    let address = client.address;
    let count = client.end();
    second.stop(StopHow::Suspend);
    second.ended();
    // The module came with the service and was kept.
    assert!(machines[1].states.join("module.wasm").exists());
    let again = machines[1].keep();
    again.start_service(&spec, Origin::Again, vec![(Role::Listener, listening)]);
    assert_eq!(again.running().version, world.record().version);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"*2\r\n$3\r\nGET\r\n$1\r\nn\r\n").unwrap();
    let mut answers = BufReader::new(stream);
    let mut line = String::new();
    answers.read_line(&mut line).unwrap();
    line.clear();
    answers.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), count.to_string());
    // And the first machine knows that it is not there.
    let stale = machines[0].keep();
    stale.start_service(&spec, Origin::Again, Vec::new());
    assert_eq!(stale.failed().code, dunlin_keep_link::FailCode::NotHolder);
}
