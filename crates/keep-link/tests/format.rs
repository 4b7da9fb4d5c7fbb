//! The bytes of every message, pinned by files that change only on purpose: `DUNLIN_BLESS=1` writes them anew. And
//! what a hostile other side may send: every cut, every changed bit, wrong numbers of descriptors, wrong order.

use std::fmt::Write as _;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Duration;

use dunlin_base::Digest;
use dunlin_handover::converge::Options;
use dunlin_handover::message::{Blocked, BlockedCode, Text};
use dunlin_handover::statistics::Statistics;
use dunlin_handover::{
    Key, LedgerAnswer, LedgerCall, LedgerQuery, LedgerReply, MigrationId, Nonce, ServiceId, codec::DecodeError,
};
use dunlin_keep_link::*;

const VERSION: u16 = Versions::SUPPORTED.newest;

fn spec() -> Spec {
    Spec {
        service: ServiceId([0x51; 16]),
        name: "kv".to_owned(),
        module: Digest([0x52; 32]),
        policy: Digest([0x53; 32]),
        signed_policy: Some(SignedPolicy { object: vec![0x59; 4], signer: vec![0x5a; 3] }),
        args: vec!["kv".to_owned(), "--x".to_owned()],
        env: vec![Variable { name: "A".to_owned(), value: "b".to_owned() }],
        tier: Tier::Pulley,
        limits: Limits { cpu_percent: Some(50), ..Limits::default() },
    }
}

fn offered(roles: Vec<Role>) -> Offered {
    Offered::new(roles).unwrap()
}

fn all_roles() -> Vec<Role> {
    let mount = Role::Mount { guest: "/data".to_owned(), writable: true };
    let volume = Role::Volume { guest: "/vol".to_owned() };
    let streams = [Role::Stdin, Role::Stdout, Role::Stderr];
    let others = [Role::Listener, Role::Listener, mount, volume, Role::States];
    [Role::Module].into_iter().chain(streams).chain(others).collect()
}

fn orders() -> Vec<Order> {
    let migration = MigrationId([0x61; 16]);
    let order = OrderId(7);
    let identity = Identity {
        order: OrderId(1),
        version: VERSION,
        ledger: Key([0x54; 32]),
        node: "alpha".to_owned(),
        provider: "north".to_owned(),
        platform: vec![0x55; 5],
        certificates: vec![vec![0x56; 3], vec![0x57; 2]],
        roots: vec![vec![0x58; 4]],
        witness: Witness::Tpm,
    };
    let out = MigrateOut { order, migration, options: Options::default(), dry_run: false, wish: Some(WishId(3)) };
    let arrival = offered(vec![Role::Peer, Role::States, Role::Listener]);
    vec![
        Order::Identity(identity),
        Order::Start(Start { order, spec: spec(), origin: Origin::Again, offered: offered(all_roles()) }),
        Order::Checkpoint(TakeCheckpoint { order, whole: true }),
        Order::Stop(Stop { order, how: StopHow::Suspend }),
        Order::Attest(Challenge { order, nonce: Nonce([0x5b; 32]) }),
        Order::MigrateOut(out),
        Order::MigrateIn(MigrateIn { order, migration, spec: spec(), offered: arrival }),
        Order::Cancel(About { order, migration }),
        Order::Reconnect(About { order, migration }),
        Order::LedgerReply(LedgerReply { id: 9, answer: LedgerAnswer::Unreachable }),
        Order::WishRefused(WishRefused { wish: WishId(3), text: "no such node".to_owned() }),
        Order::Broker(BrokerCall { call: 4 }),
        Order::Proof(ProofReply { call: 5, given: Ok(Proof { evidence: vec![0x5c; 3], endorsements: vec![0x5d; 2] }) }),
        Order::Proof(ProofReply { call: 6, given: Err("no TPM".to_owned()) }),
        Order::Query(Call { order }),
    ]
}

fn reports() -> Vec<Report> {
    let migration = MigrationId([0x61; 16]);
    let order = OrderId(7);
    let id = ConnectionId([0x71; 16]);
    let connections = vec![ConnectionState { id, ended: true, shut: false }];
    let (took, pause) = (Duration::from_micros(1500), Duration::from_micros(400));
    let statistics = Statistics { error_desc: Some("e".to_owned()), ..Statistics::default() };
    let blocked = vec![Blocked { code: BlockedCode::Needs, text: Text::new("a mount") }];
    let ready = Ready {
        oldest: 1,
        newest: 1,
        product: "dunlin-keep 0.1.0".to_owned(),
        holder: Key([0x72; 32]),
        public_key: vec![0x73; 6],
    };
    let status = StatusReport {
        order,
        doing: "running".to_owned(),
        epoch: Some(4),
        version: 5,
        memory_bytes: 65536,
        connections: 2,
        cpu: took,
        uptime: pause,
    };
    let query = LedgerQuery::Read { service: ServiceId([0x51; 16]), nonce: Nonce([0x74; 32]) };
    let trapped = EndedHow::Trapped { message: "unreachable".to_owned(), backtrace: "0: f".to_owned() };
    let stayed = LeftHow::Stayed { epoch: 4, cancelled: true, reason: "cancelled".to_owned() };
    let live = ArrivedHow::Live { epoch: 5, version: 6, complete: true };
    vec![
        Report::Ready(ready),
        Report::Done(Call { order }),
        Report::Failed(Failed { order, code: FailCode::NotHolder, text: "elsewhere".to_owned() }),
        Report::Running(Running { order, epoch: 2, version: 1, pinned: Some("a mount".to_owned()), took }),
        Report::Ended(Ended { order: Some(order), how: trapped }),
        Report::Checkpointed(Checkpointed { order, version: 2, state_hash: Digest([0x75; 32]), bytes: 9, pause, took }),
        Report::Attested(Attested { order, evidence: vec![0x76; 3], endorsements: vec![0x77], binding: vec![0x78; 2] }),
        Report::Progress(Progress { migration, statistics: statistics.clone() }),
        Report::Phase(Phase { migration, name: "copying".to_owned() }),
        Report::Left(Left { order, migration, how: stayed, connections, statistics }),
        Report::Arrived(Arrived { order, migration, how: live }),
        Report::Ledger(LedgerCall { id: 9, query }),
        Report::Wish(Wish { wish: WishId(3), destination: "beta".to_owned() }),
        Report::Connected(Connected { id, listener: 1, carried: true }),
        Report::Closed(Closed { id }),
        Report::Broker(BrokerCall { call: 4 }),
        Report::Proof(ProofCall { call: 5, binding: vec![0x5e; 4] }),
        Report::Status(status),
        Report::Note(Note { text: "hello".to_owned() }),
        // Variants of the same kinds, to have every tag pinned.
        Report::Ended(Ended { order: None, how: EndedHow::Exited(3) }),
        Report::Ended(Ended { order: Some(order), how: EndedHow::Suspended { version: 8 } }),
        Report::Ended(Ended { order: Some(order), how: EndedHow::Killed }),
        Report::Ended(Ended { order: None, how: EndedHow::Broken("b".to_owned()) }),
        Report::Arrived(Arrived { order, migration, how: ArrivedHow::DryRun }),
        Report::Arrived(Arrived { order, migration, how: ArrivedHow::Refused(blocked.clone()) }),
        Report::Arrived(Arrived { order, migration, how: ArrivedHow::Failed("f".to_owned()) }),
        Report::Arrived(Arrived { order, migration, how: ArrivedHow::Parked }),
        Report::Arrived(Arrived { order, migration, how: ArrivedHow::GaveBack }),
        left(LeftHow::Moved { confirmed: true }),
        left(LeftHow::DryRun(blocked)),
        left(LeftHow::Returned { epoch: 9 }),
        left(LeftHow::Superseded),
    ]
}

fn left(how: LeftHow) -> Report {
    let (order, migration) = (OrderId(7), MigrationId([0x61; 16]));
    Report::Left(Left { order, migration, how, connections: Vec::new(), statistics: Statistics::default() })
}

#[test]
fn every_message_has_its_golden_bytes_and_comes_back() {
    let mut seen = std::collections::BTreeMap::new();
    for order in orders() {
        let packet = Packet::order(VERSION, &order).unwrap();
        golden(&mut seen, &format!("order-{:02}-{}", order.kind(), order.name()), packet.bytes());
        assert_eq!(Packet::read_order(packet.bytes(), order.descriptors(), VERSION), Ok(order));
    }
    for report in reports() {
        let packet = Packet::report(VERSION, &report).unwrap();
        golden(&mut seen, &format!("report-{:02}-{}", report.kind(), report.name()), packet.bytes());
        assert_eq!(Packet::read_report(packet.bytes(), report.descriptors(), Some(VERSION)), Ok(report));
    }
}

#[test]
fn every_cut_is_refused_and_every_changed_bit_is_refused_or_canonical() {
    for order in orders() {
        let bytes = Packet::order(VERSION, &order).unwrap().bytes().to_vec();
        let descriptors = order.descriptors();
        for length in 0..bytes.len() {
            assert!(
                Packet::read_order(&bytes[..length], descriptors, VERSION).is_err(),
                "{} cut to {length}",
                order.name()
            );
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(matches!(Packet::read_order(&longer, descriptors, VERSION), Err(PacketError::Decode { .. })));
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = Packet::read_order(&changed, descriptors, VERSION) {
                assert_eq!(Packet::order(VERSION, &read).unwrap().bytes(), changed, "{} bit {bit}", order.name());
            }
        }
    }
    for report in reports() {
        let bytes = Packet::report(VERSION, &report).unwrap().bytes().to_vec();
        let descriptors = report.descriptors();
        for length in 0..bytes.len() {
            assert!(Packet::read_report(&bytes[..length], descriptors, None).is_err());
        }
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = Packet::read_report(&changed, descriptors, Some(VERSION)) {
                assert_eq!(Packet::report(VERSION, &read).unwrap().bytes(), changed, "{} bit {bit}", report.name());
            }
        }
    }
}

#[test]
fn descriptors_that_do_not_belong_to_the_message_are_refused() {
    for order in orders() {
        let packet = Packet::order(VERSION, &order).unwrap();
        let right = order.descriptors();
        for given in (0..12).filter(|given| *given != right) {
            let read = Packet::read_order(packet.bytes(), given, VERSION);
            assert!(matches!(read, Err(PacketError::Descriptors { .. })), "{} with {given}", order.name());
        }
        let mut lying = packet.bytes().to_vec();
        lying[3] ^= 1;
        assert!(matches!(Packet::read_order(&lying, right, VERSION), Err(PacketError::Descriptors { .. })));
    }
}

#[test]
fn roles_that_must_not_be_doubled_or_missing_are_refused() {
    let doubled = Offered::new(vec![Role::States, Role::States]);
    assert!(matches!(doubled, Err(DecodeError::Invalid { .. })));
    assert!(matches!(Offered::new(vec![Role::Listener; 81]), Err(DecodeError::Invalid { .. })));
    let start = |roles| {
        let start = Start { order: OrderId(2), spec: spec(), origin: Origin::First, offered: offered(roles) };
        let order = Order::Start(start);
        Packet::read_order(Packet::order(VERSION, &order).unwrap().bytes(), order.descriptors(), VERSION)
    };
    assert!(start(vec![Role::Module, Role::States]).is_ok());
    assert!(start(vec![Role::Module]).is_err());
    assert!(start(vec![Role::States]).is_err());
    assert!(start(vec![Role::Module, Role::States, Role::Peer]).is_err());
}

#[test]
fn what_is_too_large_is_not_sent() {
    let mut huge = spec();
    huge.args = vec!["x".repeat(30_000); 10];
    let offered = offered(vec![Role::Module, Role::States]);
    let order = Order::Start(Start { order: OrderId(2), spec: huge, origin: Origin::First, offered });
    assert!(matches!(Packet::order(VERSION, &order), Err(PacketError::Length { .. })));
    assert!(matches!(Packet::read_order(&vec![0; MAX_PACKET + 1], 0, 1), Err(PacketError::Length { .. })));
}

#[test]
fn orders_out_of_order_are_not_admitted() {
    let [identity, start, ..] = &orders()[..] else { panic!() };
    let call = |order| Order::Query(Call { order: OrderId(order) });
    let reply = Order::LedgerReply(LedgerReply { id: 9, answer: LedgerAnswer::Unreachable });
    let mut gate = Gate::new();
    assert!(matches!(gate.admit(start), Err(OutOfOrder::Identity { order: "Start" })));
    assert!(matches!(gate.admit(&reply), Err(OutOfOrder::Identity { .. })));
    let Order::Identity(newer) = identity.clone() else { panic!() };
    let newer = Order::Identity(Identity { version: VERSION + 1, ..newer });
    assert_eq!(gate.admit(&newer), Err(OutOfOrder::Version { chosen: VERSION + 1, oldest: VERSION, newest: VERSION }));
    assert_eq!(gate.admit(identity), Ok(()));
    assert!(matches!(gate.admit(identity), Err(OutOfOrder::Identity { .. })));
    assert_eq!(gate.admit(&call(7)), Ok(()));
    assert_eq!(gate.admit(&call(7)), Err(OutOfOrder::Number { found: OrderId(7), last: OrderId(7) }));
    assert_eq!(gate.admit(&call(3)), Err(OutOfOrder::Number { found: OrderId(3), last: OrderId(7) }));
    assert_eq!(gate.admit(&reply), Ok(()));
    assert_eq!(gate.admit(&call(8)), Ok(()));
}

#[test]
fn packets_and_descriptors_arrive_together() {
    let (here, there) = Channel::pair().unwrap();
    let (read, write) = rustix::pipe::pipe().unwrap();
    let connected = Report::Connected(Connected { id: ConnectionId([1; 16]), listener: 0, carried: true });
    let packet = Packet::report(VERSION, &connected).unwrap();
    here.send(&packet, &[read.as_fd(), write.as_fd()]).unwrap();
    let note = Report::Note(Note { text: "n".to_owned() });
    here.send(&Packet::report(VERSION, &note).unwrap(), &[]).unwrap();
    drop((read, write));
    let received = there.receive().unwrap().unwrap();
    assert_eq!(Packet::read_report(&received.bytes, received.descriptors.len(), Some(VERSION)), Ok(connected));
    rustix::io::write(&received.descriptors[1], b"through").unwrap();
    let mut buffer = [0; 7];
    rustix::io::read(&received.descriptors[0], &mut buffer).unwrap();
    assert_eq!(&buffer, b"through");
    let received = there.receive().unwrap().unwrap();
    assert_eq!(Packet::read_report(&received.bytes, received.descriptors.len(), Some(VERSION)), Ok(note));
    drop(here);
    assert!(there.receive().unwrap().is_none());
}

#[test]
fn the_largest_packet_passes_in_one_piece() {
    let (here, there) = Channel::pair().unwrap();
    let mut large = spec();
    large.args = vec!["x".repeat(32_000); 9];
    let offered = offered(vec![Role::Module, Role::States]);
    let order = Order::Start(Start { order: OrderId(2), spec: large, origin: Origin::First, offered });
    let packet = Packet::order(VERSION, &order).unwrap();
    assert!(packet.bytes().len() > MAX_PACKET - 8192);
    let null = std::fs::File::open("/dev/null").unwrap();
    here.send(&packet, &[null.as_fd(), null.as_fd()]).unwrap();
    let received = there.receive().unwrap().unwrap();
    assert_eq!(Packet::read_order(&received.bytes, received.descriptors.len(), VERSION), Ok(order));
}

#[test]
fn what_is_larger_than_a_packet_is_an_error_and_not_a_part() {
    let (here, there) = Channel::pair().unwrap();
    rustix::net::send(here.as_fd(), &vec![0; MAX_PACKET + 1], rustix::net::SendFlags::NOSIGNAL).unwrap();
    assert!(matches!(there.receive(), Err(ChannelError::Truncated)));
}

#[test]
fn a_stream_socket_is_no_channel() {
    let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(Channel::new(stream.into()).is_err());
}

fn golden(seen: &mut std::collections::BTreeMap<String, u32>, name: &str, bytes: &[u8]) {
    let count = seen.entry(name.to_owned()).or_default();
    let file = if *count == 0 { format!("{name}.hex") } else { format!("{name}-{count}.hex") };
    *count += 1;
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file.to_lowercase());
    let mut text = String::new();
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
        text.push('\n');
    }
    if std::env::var_os("DUNLIN_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let pinned = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, pinned, "the bytes of {name} have changed; DUNLIN_BLESS=1 writes them anew");
}
