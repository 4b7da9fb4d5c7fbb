//! What two keeps demand of each other before state flows, and what whoever carries their stream sees of it.
#![allow(missing_docs, reason = "a test program")]

mod common;

use std::os::fd::AsFd as _;

use common::canary::{self, contains};
use common::{Machine, Nominations, Wire, World, migrate, options};
use dunlin_attest::{
    BindingContext, Class, Endorsements, Evidence, Policy, Role as EvidenceRole, SigningKey, Verifier,
};
use dunlin_base::Digest;
use dunlin_handover::converge::Mode;
use dunlin_handover::{Key, MigrationId, Nonce};
use dunlin_keep_link::{
    ArrivedHow, Challenge, FailCode, LeftHow, MigrateOut, Order, Origin, Report, Role, SignedPolicy,
};

/// What the program has in its memory and nobody else is to see. The module has it in disguise only.
const CANARY: &[u8; 32] = b"canary-7c1e0f3d5a9b2468-in-mine!";

/// A program that takes the disguise off, and sleeps.
fn sleeper() -> Vec<u8> {
    let (segment, reveal) = (canary::segment(CANARY), canary::reveal());
    let text = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 4)
            {segment}
            (func (export "_start") (local $i i32)
                {reveal}
                (loop $forever
                    (i32.store (i32.const 16) (i32.const 1))
                    (i64.store (i32.const 24) (i64.const 2000000))
                    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
                    (br $forever))))"#
    );
    wat::parse_str(text).unwrap()
}

/// The policy of an owner who lets `class` in and above.
fn policy(class: &str, module: Digest, ledger: Key) -> (SignedPolicy, Digest) {
    let owner = SigningKey::from_bytes(&[3; 32]).unwrap();
    let block = if class == "sim" { "sim" } else { "tpm" };
    let text = format!(
        r#"
format = 1
service = "service"
version = 1
issued = 2026-01-01T00:00:00Z
expires = 2099-12-31T23:59:59Z
class_floor = "{class}"
modules = ["sha256:{module}"]
require_measured_policy = true

[insecure]
any_measurement = true
any_provider = true

[{block}]

[migration]
destination = "any_accepted"

[ledger]
id = "{ledger}"
keys = ["{}"]
quorum = 1
"#,
        owner.verifying_key()
    );
    let object = Policy::sign(&text, &owner).unwrap();
    (SignedPolicy { object, signer: owner.verifying_key().to_bytes() }, Digest::of(text.as_bytes()))
}

/// A program that says a secret of its owner, puts a value away, waits for a line, and says the value, whether it gets
/// evidence, and what it hears of a secret that is not there and of a module that nobody trusts.
const ASKER: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
    (import "dunlin_trust" "attest" (func $attest (param i32 i32 i32) (result i32)))
    (import "dunlin_trust" "authenticate" (func $secret (param i32 i32 i32 i32) (result i32)))
    (import "dunlin_trust" "put" (func $put (param i32 i32 i32 i32 i32) (result i32)))
    (import "dunlin_trust" "get" (func $get (param i32 i32 i32 i32) (result i32)))
    (import "dunlin_trust" "run" (func $run (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "dunlin_trust" "read" (func $read (param i32 i64 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "greetingmissingvalue of a key")
    (func $say (param $at i32) (param $length i32)
        (i32.store (i32.const 256) (local.get $at))
        (i32.store (i32.const 260) (local.get $length))
        (drop (call $write (i32.const 1) (i32.const 256) (i32.const 1) (i32.const 264))))
    ;; An error number as a letter; A is none.
    (func $number (param $errno i32)
        (i32.store8 (i32.const 300) (i32.add (i32.const 65) (local.get $errno)))
        (call $say (i32.const 300) (i32.const 1)))
    ;; What the result at 200 holds, at most 64 bytes of it.
    (func $result
        (call $number (call $read (i32.load (i32.const 200)) (i64.const 0) (i32.const 400) (i32.const 64) (i32.const 216)))
        (call $say (i32.const 400) (i32.load (i32.const 216))))
    (func (export "_start")
        (call $number (call $secret (i32.const 0) (i32.const 8) (i32.const 200) (i32.const 208)))
        (call $result)
        (call $number (call $put (i32.const 15) (i32.const 3) (i32.const 15) (i32.const 14) (i32.const 0)))
        (i32.store (i32.const 256) (i32.const 600))
        (i32.store (i32.const 260) (i32.const 1))
        (drop (call $fd_read (i32.const 0) (i32.const 256) (i32.const 1) (i32.const 264)))
        (call $number (call $get (i32.const 15) (i32.const 3) (i32.const 200) (i32.const 208)))
        (call $result)
        (call $number (call $attest (i32.const 700) (i32.const 200) (i32.const 208)))
        (call $number (call $secret (i32.const 8) (i32.const 7) (i32.const 200) (i32.const 208)))
        (call $number (call $run (i32.const 0) (i32.const 8) (i32.const 0) (i32.const 0) (i32.const 200) (i32.const 208)))))"#;

#[test]
fn a_program_gets_secrets_evidence_and_a_store_that_moves_with_it() {
    let world = World::new(wat::parse_str(ASKER).unwrap());
    let spec = world.spec(&["asker"]);
    let (a, b) = (Machine::new(&world, "a"), Machine::new(&world, "b"));
    let (output, text) = common::collector();
    let (input, line) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let more = || vec![(Role::Stdin, input.try_clone().unwrap()), (Role::Stdout, output.try_clone().unwrap())];
    let (first, second) = (a.keep(), b.keep());
    first.start_service(&spec, Origin::First, more());
    first.running();
    // It has said its secret and waits.
    first.checkpoint();
    let (_, arrived) = migrate(&first, &second, &spec, options(Mode::Precopy), more());
    assert!(common::is_live(&arrived), "{arrived:?}");
    assert_eq!(rustix::io::write(&line, b".").unwrap(), 1);
    assert_eq!(second.ended().how, dunlin_keep_link::EndedHow::Exited(0));
    drop((output, first, second));
    // ENOENT is 44: the letter m.
    assert_eq!(text.join().unwrap(), "AAa secretAAAvalue of a keyAmm");
}

#[test]
fn a_canary_is_not_in_what_the_nodes_relay_or_store() {
    let world = World::new(sleeper());
    let spec = world.spec(&["sleeper"]);
    let (a, b) = (Machine::new(&world, "a"), Machine::new(&world, "b"));
    let first = a.keep();
    first.start_service(&spec, Origin::First, Vec::new());
    first.running();
    first.checkpoint();
    let second = b.keep();
    for (number, mode) in [Mode::Precopy, Mode::Postcopy].into_iter().enumerate() {
        let (from, to) = if number == 0 { (&first, &second) } else { (&second, &first) };
        let third;
        let to = if number == 0 {
            to
        } else {
            third = a.keep();
            &third
        };
        let wire = Wire::new();
        let seen = wire.seen.clone();
        let migration = MigrationId([number as u8 + 1; 16]);
        to.migrate_in(&spec, migration, wire.destination, Vec::new());
        from.migrate_out(migration, options(mode), false, &wire.source);
        while !matches!(to.arrived().how, ArrivedHow::Live { complete: true, .. }) {}
        let seen = seen.lock().unwrap();
        // The pages with the program's memory did go by: the module alone is much smaller.
        assert!(seen.len() > world.wasm.len(), "{} bytes", seen.len());
        assert!(!contains(&seen, CANARY), "{mode:?}");
        // Nor did the module, or a name of the protocol.
        assert!(!contains(&seen, &world.wasm[..64.min(world.wasm.len())]));
        if number == 1 {
            to.checkpoint();
        }
    }
    let mut files = 0;
    for states in [&a.states, &b.states] {
        for entry in std::fs::read_dir(states).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!contains(&bytes, CANARY));
            files += usize::from(!bytes.is_empty());
        }
    }
    assert!(files > 0, "something is stored");
}

#[test]
fn a_service_moves_under_its_owners_policy() {
    let wasm = sleeper();
    let module = Digest::of(&wasm);
    let world = World::under(wasm, |ledger| Some(policy("sim", module, ledger)));
    let spec = world.spec(&["sleeper"]);
    let (a, b) = (Machine::new(&world, "a"), Machine::new(&world, "b"));
    let (first, second) = (a.keep(), b.keep());
    first.start_service(&spec, Origin::First, Vec::new());
    first.running();
    let (left, arrived) = migrate(&first, &second, &spec, options(Mode::Precopy), Vec::new());
    assert!(matches!(left.how, LeftHow::Moved { .. }), "{left:?}");
    assert!(matches!(arrived.how, ArrivedHow::Live { .. }), "{arrived:?}");
}

#[test]
fn a_policy_that_demands_more_than_a_simulation_is_not_met_here() {
    let wasm = sleeper();
    let module = Digest::of(&wasm);
    let world = World::under(wasm, |ledger| Some(policy("measured_host", module, ledger)));
    let before = world.record();
    let spec = world.spec(&["sleeper"]);
    let keep = Machine::new(&world, "a").keep();
    keep.start_service(&spec, Origin::First, Vec::new());
    let refused = keep.failed();
    assert_eq!(refused.code, FailCode::Untrusted);
    assert!(refused.text.contains("demands measured_host"), "{}", refused.text);
    assert_eq!(world.record(), before, "nothing is claimed");
    // Nor does such a service arrive.
    let wire = Wire::new();
    keep.migrate_in(&spec, MigrationId([1; 16]), wire.destination, Vec::new());
    assert_eq!(keep.failed().code, FailCode::Untrusted);
    assert!(wire.seen.lock().unwrap().is_empty());
}

#[test]
fn a_node_that_withholds_the_policy_or_brings_another_starts_nothing() {
    let wasm = sleeper();
    let module = Digest::of(&wasm);
    let world = World::under(wasm, |ledger| Some(policy("sim", module, ledger)));
    let before = world.record();
    let machine = Machine::new(&world, "a");
    let withheld = dunlin_keep_link::Spec { signed_policy: None, ..world.spec(&["sleeper"]) };
    // A weaker one of the same owner: but the ledger's record names the other.
    let (weaker, digest) = policy("sim", module, Key([1; 32]));
    let weaker = dunlin_keep_link::Spec { signed_policy: Some(weaker), ..world.spec(&["sleeper"]) };
    let renamed = dunlin_keep_link::Spec { policy: digest, ..weaker.clone() };
    for (spec, code) in [(withheld, FailCode::Untrusted), (weaker, FailCode::Untrusted), (renamed, FailCode::Invalid)] {
        let keep = machine.keep();
        keep.start_service(&spec, Origin::First, Vec::new());
        assert_eq!(keep.failed().code, code);
    }
    assert_eq!(world.record(), before, "nothing is claimed");
}

#[test]
fn another_keep_cannot_take_the_place_of_the_one_that_proved_itself() {
    let world = World::new(sleeper());
    let spec = world.spec(&["sleeper"]);
    let (a, b) = (Machine::new(&world, "a"), Machine::new(&world, "b"));
    let (first, second) = (a.keep(), b.keep());
    first.start_service(&spec, Origin::First, Vec::new());
    first.running();
    // The node at the destination connects a keep that was to take another service.
    let mut other = spec.clone();
    other.service = dunlin_handover::ServiceId([8; 16]);
    let wire = Wire::new();
    second.migrate_in(&other, MigrationId([1; 16]), wire.destination, Vec::new());
    first.migrate_out(MigrationId([1; 16]), options(Mode::Stop), false, &wire.source);
    assert_eq!(first.failed().code, FailCode::Untrusted);
    assert_eq!(second.failed().code, FailCode::Untrusted);
    // Two sources have nothing to say to each other either: a relay that sends everything back.
    let (end, mirror) = std::os::unix::net::UnixStream::pair().unwrap();
    common::relay(mirror.try_clone().unwrap().into(), mirror.into());
    let migrate = MigrateOut {
        order: first.number(),
        migration: MigrationId([2; 16]),
        options: options(Mode::Stop),
        dry_run: false,
        wish: None,
    };
    first.order(&Order::MigrateOut(migrate), &[end.as_fd()]);
    assert_eq!(first.failed().code, FailCode::Untrusted);
    assert_eq!(first.status().doing, "running");
}

#[test]
fn a_client_gets_evidence_for_its_nonce() {
    let world = World::new(sleeper());
    let machine = Machine::new(&world, "a");
    let keep = machine.keep();
    keep.start_service(&world.spec(&["sleeper"]), Origin::First, Vec::new());
    let running = keep.running();
    let nonce = Nonce([9; 32]);
    keep.order(&Order::Attest(Challenge { order: keep.number(), nonce }), &[]);
    let attested = keep.expect("attested", |report| match report {
        Report::Attested(attested) => Some(attested.clone()),
        _ => None,
    });
    let evidence = Evidence::from_cbor(&attested.evidence).unwrap();
    let endorsements = Endorsements::from_cbor(&attested.endorsements).unwrap();
    let binding = BindingContext::from_cbor(&attested.binding).unwrap();
    assert_eq!(
        (binding.role, binding.peer_nonce, binding.epoch),
        (EvidenceRole::ServiceToClient, nonce.0, running.epoch)
    );
    assert_eq!((binding.module, binding.provider.as_str()), (Digest::of(&world.wasm), "tests"));
    let roots = dunlin_attest_sim::roots(["tests"]).unwrap();
    let now = 1_800_000_000;
    let claims = Verifier::appraise(&evidence, &endorsements, &binding.report_data(), now, &roots).unwrap();
    assert_eq!(claims.class, Class::Sim);
    assert_eq!(claims.registers["module"].0, Digest::of(&world.wasm).0);
    // For another nonce it is worth nothing.
    let other = BindingContext { peer_nonce: [8; 32], ..binding };
    assert!(Verifier::appraise(&evidence, &endorsements, &other.report_data(), now, &roots).is_err());
}

#[test]
fn a_keep_that_shows_the_ledger_nothing_takes_nothing() {
    let world = World::new(wat::parse_str(ASKER).unwrap());
    let spec = world.spec(&["asker"]);
    let (a, b) = (Machine::new(&world, "a"), Machine::new(&world, "b"));
    let (input, _line) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let more = || vec![(Role::Stdin, input.try_clone().unwrap())];
    let withhold = |yes| world.withhold.store(yes, std::sync::atomic::Ordering::SeqCst);
    let first = a.keep();
    withhold(true);
    first.start_service(&spec, Origin::First, more());
    let failed = first.failed();
    assert!(failed.text.contains("appraises evidence itself"), "{failed:?}");
    assert_eq!(world.record().holder, None);
    withhold(false);
    first.start_service(&spec, Origin::First, more());
    first.running();
    let before = world.record();
    // Nor is the service given away. Refused before it begins, a move says so; the source goes on in the same epoch.
    let nominations = |what| *world.nominations.lock().unwrap() = what;
    nominations(Nominations::Strips);
    let wire = Wire::new();
    let (migration, second) = (MigrationId([0xa7; 16]), b.keep());
    second.migrate_in(&spec, migration, wire.destination, more());
    first.migrate_out(migration, options(Mode::Precopy), false, &wire.source);
    let failed = first.failed();
    assert!(failed.text.contains("does not let the other keep take the service"), "{failed:?}");
    assert_eq!(world.record(), before);
    // Refused at the transfer, it goes on in the next one, and moves once the ledger sees what it is shown.
    nominations(Nominations::Drops);
    withhold(true);
    let (left, arrived) = migrate(&first, &b.keep(), &spec, options(Mode::Precopy), more());
    assert!(matches!(left.how, LeftHow::Stayed { .. }) && !common::is_live(&arrived), "{left:?} {arrived:?}");
    assert_eq!(world.record().holder, before.holder);
    withhold(false);
    let (left, arrived) = migrate(&first, &b.keep(), &spec, options(Mode::Precopy), more());
    assert!(matches!(left.how, LeftHow::Moved { .. }) && common::is_live(&arrived), "{left:?} {arrived:?}");
}
