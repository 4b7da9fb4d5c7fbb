//! A frame changed, dropped, repeated or reordered, of every kind of message, and the link cut anywhere.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dunlin_engine::{Lazy, Tier};
use dunlin_handover::converge::{Mode, Options};
use dunlin_handover::ledger::{Ledger as _, Operation};
use dunlin_handover::message::Role;
use dunlin_handover::{Limits, destination, source};
use dunlin_keep::migrate::load;

use crate::crash::digest;
use crate::hands::{Act, Moment, name};
use crate::moving::{Ways, limits, options};
use crate::world::{World, named, request, shelf};

/// What is done to one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// A bit of the byte at this many hundredths of the frame is turned, behind its length.
    Change(usize),
    Drop,
    Repeat,
    /// It comes after the next one of its direction.
    Later,
}

const ALL: [What; 6] = [What::Change(0), What::Change(50), What::Change(100), What::Drop, What::Repeat, What::Later];

/// Silence is noticed soon.
fn quick() -> Limits {
    Limits {
        keepalive: Duration::from_millis(50),
        peer_silence: Duration::from_millis(600),
        activation: Duration::from_millis(300),
        decision: Duration::from_millis(300),
        ledger_retry: Duration::from_millis(20),
        ..limits()
    }
}

/// Every kind of message that a move in this mode sends, and by whom.
fn kinds(options: &Options, ways: &Ways) -> Vec<(Role, u8)> {
    let world = World::new(Tier::Cranelift, Duration::from_micros(100));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    world.hands.hook(move |moment| {
        if let Moment::Frame { from, kind, .. } = moment {
            let mut noted = noted.lock().unwrap();
            if !noted.contains(&(from, kind)) {
                noted.push((from, kind));
            }
        }
        Act::Pass
    });
    world.end(world.begin(options.clone(), ways));
    let mut seen = seen.lock().unwrap().clone();
    // Ping and Pong come when they like.
    seen.retain(|(_, kind)| *kind < 0x40);
    seen
}

/// Does `what` to the first frame of that kind from that side; tells whether there was one.
fn disturb(world: &World, target: (Role, u8), what: What) -> Arc<AtomicBool> {
    let done = Arc::new(AtomicBool::new(false));
    let told = done.clone();
    let mut held: Option<Vec<u8>> = None;
    world.hands.hook(move |moment| {
        let Moment::Frame { from, kind, bytes } = moment else { return Act::Pass };
        if from == target.0
            && let Some(held) = held.take()
        {
            return Act::Deliver(vec![bytes.to_vec(), held]);
        }
        if (from, kind) != target || told.swap(true, Ordering::SeqCst) {
            return Act::Pass;
        }
        Act::Deliver(match what {
            What::Change(hundredths) => {
                let mut frame = bytes.to_vec();
                // The length would only make the reader wait: a changed one is tested where frames are read.
                let at = 4 + (frame.len() - 5) * hundredths / 100;
                frame[at] ^= 0x10;
                vec![frame]
            }
            What::Drop => Vec::new(),
            What::Repeat => vec![bytes.to_vec(), bytes.to_vec()],
            What::Later => {
                held = Some(bytes.to_vec());
                Vec::new()
            }
        })
    });
    done
}

/// Before the commit the source goes on; after it the destination does, whatever becomes of the link.
fn refused(options: &Options, ways: &Ways) {
    let kinds = kinds(options, ways);
    let names: BTreeSet<&str> = kinds.iter().map(|(_, kind)| name(*kind)).collect();
    for expected in ["Hello", "Welcome", "Offer", "Accept", "Prepared", "State", "Final", "Staged", "Committed"] {
        assert!(names.contains(expected), "{expected} was not sent: {names:?}");
    }
    for target in kinds {
        for what in ALL {
            let world = World::new(Tier::Cranelift, Duration::from_micros(100));
            let done = disturb(&world, target, what);
            let moving = world.begin(options.clone(), ways);
            let (source, _) = world.end(moving);
            assert!(done.load(Ordering::SeqCst), "{target:?}");
            let stayed = matches!(source.outcome, source::Outcome::Stayed { .. });
            // A frame that comes twice after everything was decided, or is held back as the last one, says nothing.
            let committed = matches!(target.1, 0x21 | 0x22);
            // Whoever got the frame that was missing may decide before he sees it again; `end` has looked for the one owner.
            if what == What::Repeat && matches!(name(target.1), "Final" | "Staged") {
                continue;
            }
            assert_eq!(stayed, !committed, "{what:?} of {}: {source:?}", name(target.1));
        }
    }
}

fn ways(compress: bool) -> Ways {
    Ways { limits: quick(), compress, ..Ways::default() }
}

#[test]
fn disturbed_in_mode_precopy_the_source_goes_on() {
    refused(&options(Mode::Precopy), &ways(true));
}

#[test]
fn disturbed_in_mode_stop_the_source_goes_on() {
    refused(&options(Mode::Stop), &ways(false));
}

/// In post-copy a disturbed link is a lost link: the program stands, and goes on when there is another.
#[test]
fn disturbed_in_postcopy_the_program_stands_until_the_link_is_back() {
    if !Lazy::is_available() {
        return;
    }
    let (options, ways) = (options(Mode::Postcopy), ways(false));
    let kinds = kinds(&options, &ways);
    let names: BTreeSet<&str> = kinds.iter().map(|(_, kind)| name(*kind)).collect();
    assert!(names.is_superset(&BTreeSet::from(["LeftBehind", "Pages", "PushEnd", "Complete"])), "{names:?}");
    for target in kinds {
        for what in ALL {
            let world = World::new(Tier::Cranelift, Duration::from_micros(100));
            let _done = disturb(&world, target, what);
            let moving = world.begin(options.clone(), &ways);
            let over = Arc::new(AtomicBool::new(false));
            let healer = world.heal(&moving, &over);
            let (destination, there) = moving.destination.join().unwrap();
            over.store(true, Ordering::SeqCst);
            healer.join().unwrap();
            let live = matches!(destination.outcome, destination::Outcome::Live { .. });
            if live {
                // A source that did not hear that everything came is freed by the next commit.
                commit(&world);
            }
            let (source, runner) = moving.source.join().unwrap();
            let context = format!("{what:?} of {}: {source:?} {destination:?}", name(target.1));
            match source.outcome {
                source::Outcome::Moved { .. } => {
                    assert!(live, "{context}");
                    world.check(there.runner.as_ref().unwrap());
                }
                source::Outcome::Stayed { .. } => {
                    assert!(!live && there.runner.is_none(), "{context}");
                    assert!(target.1 < 0x21, "{context}");
                    world.check(&runner);
                }
                _ => panic!("{context}"),
            }
        }
    }
}

/// The holder commits a later state.
fn commit(world: &World) {
    let record = world.record();
    let action = Operation::Commit { parent: record.state_hash, state_hash: dunlin_base::Digest::of(b"later") };
    let request = request(record.epoch, record.version, action, 99).signed(&named("second"));
    world.ledger.lock().unwrap().apply(&request).unwrap().unwrap();
}

#[test]
fn a_changed_byte_anywhere_is_refused_and_the_program_goes_on() {
    for at in [9, 100, 400, 3_000, 200_000, 900_000] {
        let world = World::new(Tier::Cranelift, Duration::from_micros(100));
        let mut passed = 0;
        world.hands.hook(move |moment| {
            let Moment::Frame { from: Role::Source, bytes, .. } = moment else { return Act::Pass };
            let before = passed;
            passed += bytes.len();
            // Behind the length of the frame that has this byte of the stream.
            if !(before..passed).contains(&at) {
                return Act::Pass;
            }
            let mut frame = bytes.to_vec();
            frame[(at - before).max(4)] ^= 4;
            Act::Deliver(vec![frame])
        });
        let (source, _) = world.end(world.begin(options(Mode::Precopy), &ways(false)));
        assert!(matches!(source.outcome, source::Outcome::Stayed { .. }), "{at}: {source:?}");
    }
}

/// Without a link the destination waits for nothing, and after a while gives back what it has: the source goes on with
/// the state that it kept, and nothing of what ran meanwhile is mixed into it.
#[test]
fn a_link_that_stays_lost_in_postcopy_falls_back_to_what_the_source_kept() {
    if !Lazy::is_available() {
        return;
    }
    let limits = Limits { give_back: Some(Duration::from_millis(200)), ..quick() };
    let world = World::new(Tier::Cranelift, Duration::from_micros(300));
    let outside = world.outside.clone();
    let mut activated = false;
    world.hands.hook(move |moment| {
        match moment {
            // The program stands while this frame travels.
            Moment::Frame { kind: 0x14, .. } => outside.roll_back(outside.reached.load(Ordering::SeqCst)),
            Moment::Frame { kind: 0x22, .. } => activated = true,
            Moment::Frame { from: Role::Source, kind: 0x10, .. } if activated => return Act::Cut,
            _ => {}
        }
        Act::Pass
    });
    let moving = world.begin(options(Mode::Postcopy), &Ways { limits, ..Ways::default() });
    let (destination, there) = moving.destination.join().unwrap();
    assert!(matches!(destination.outcome, destination::Outcome::GaveBack), "{destination:?}");
    assert!(there.runner.is_none());
    let (source, runner) = moving.source.join().unwrap();
    assert!(matches!(source.outcome, source::Outcome::Returned { epoch: 4 }), "{source:?}");
    assert_eq!(world.record().holder, Some(named("first").0));
    world.check(&runner);
    // Until the next checkpoint, what was kept is the committed state: a crash now must not be the end of it.
    let kept = load(shelf(&world.directory.join("retained"))).unwrap();
    assert_eq!(digest(&world, &kept), world.record().state_hash);
}

/// A driver that waits for its storage says nothing of its own for longer than the other one waits for a word. It lives all
/// the same, but not for ever.
#[test]
fn a_disk_that_takes_long_is_not_taken_for_silence_and_one_that_never_ends_is() {
    let silence = Duration::from_millis(300);
    for (takes, busy, moves) in [(silence * 5, silence * 50, true), (silence * 15, silence * 3, false)] {
        let limits = Limits { keepalive: silence / 6, peer_silence: silence, busy, ..limits() };
        let world = World::new(Tier::Cranelift, Duration::from_micros(300));
        let ways = Ways { limits, storage: takes, ..Ways::default() };
        let (source, destination) = world.end(world.begin(options(Mode::Precopy), &ways));
        let moved = matches!(source.outcome, source::Outcome::Moved { .. });
        assert_eq!(moved, moves, "{source:?} {destination:?}");
    }
}

/// Signs of life are no messages: however many come, and whenever, they lead to nothing.
#[test]
fn signs_of_life_without_end_change_nothing() {
    for mode in [Mode::Precopy, Mode::Stop] {
        let world = World::new(Tier::Cranelift, Duration::from_micros(300));
        world.hands.hook(|moment| match moment {
            Moment::Frame { bytes, .. } => Act::Deliver(vec![vec![0; 4 * 50_000], bytes.to_vec()]),
            _ => Act::Pass,
        });
        let (source, destination) = world.end(world.begin(options(mode), &Ways::default()));
        assert!(matches!(source.outcome, source::Outcome::Moved { .. }), "{source:?} {destination:?}");
    }
}
