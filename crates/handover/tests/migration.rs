//! Live migrations between two and three nodes in virtual time, in every mode and with one thing going wrong at a
//! time. After every single event the world checks that at most one instance runs, that it is the ledger's holder in
//! the ledger's epoch, and that some disk has the committed state.

mod world;

use std::time::Duration;

use dunlin_handover::converge::Mode;
use dunlin_handover::source::Outcome;
use world::{Fault, World, guest};

const MODES: [Mode; 5] = [Mode::Stop, Mode::Precopy, Mode::Postcopy, Mode::Hybrid, Mode::Auto];

fn serves(world: &mut World, node: usize, requests: usize) {
    let before = world.effects.len();
    let served = world.run(Duration::from_secs(300), |world| world.effects.len() >= before + requests);
    assert!(served, "nothing is served any more");
    assert_eq!(world.running(), [node]);
}

#[test]
fn m1_happy_path_in_every_mode() {
    for mode in MODES {
        let mut world = World::new(1, 2, mode);
        serves(&mut world, 0, 20);
        let before = world.record();
        world.migrate(0, 1);
        assert!(world.run(Duration::from_secs(10), |world| world.source(0).outcome().is_some()), "{mode:?}");
        assert_eq!(world.source(0).outcome(), Some(&Outcome::Moved { confirmed: true }), "{mode:?}");
        serves(&mut world, 1, 50);
        let after = world.record();
        assert_eq!(after.epoch, before.epoch + 1);
        assert!(after.version > before.version);
        world.assert_no_request_lost_or_doubled();
        statistics_add_up(&world, mode);
    }
}

/// The figures of a finished move agree with each other and with what the world saw.
fn statistics_add_up(world: &World, mode: Mode) {
    let statistics = world.source(0).statistics(world.now);
    assert_eq!(statistics.status.to_string(), "completed");
    let (ram, downtime) = (statistics.ram, statistics.downtime);
    let lazy = matches!(mode, Mode::Postcopy);
    assert!(ram.normal + ram.duplicate >= guest::PAGES, "{mode:?}: every page travels at least once: {ram:?}");
    assert_eq!(ram.normal_bytes, ram.normal * ram.page_size);
    // The state besides memory is one number.
    assert_eq!(ram.normal_bytes + 8, ram.precopy_bytes + ram.downtime_bytes + ram.postcopy_bytes);
    assert!(ram.duplicate > 0 && ram.transferred > ram.normal_bytes);
    assert_eq!(ram.postcopy_bytes > 0, lazy, "{mode:?}");
    assert_eq!(ram.dirty_sync_count > 0, ram.precopy_bytes > 0);
    assert_eq!(downtime.time_to_safepoint, Some(Duration::from_micros(40)));
    assert_eq!(downtime.restore, Some(Duration::from_micros(200)));
    let parts = [downtime.capture, downtime.staged, downtime.commit, downtime.activate];
    assert!(parts.iter().all(Option::is_some));
    // What the source says and what a client sees (ticks are a millisecond apart) are the same pause.
    let gap = world.longest_gap();
    let (least, most) = (gap.saturating_sub(Duration::from_millis(3)), gap + Duration::from_millis(3));
    let total = downtime.total() + ram.postcopy_blocktime;
    assert!((least..=most).contains(&total), "{mode:?}: reported {total:?}, seen {gap:?}");
}

/// How many boundaries a whole migration has in this world.
fn boundaries(mut world: World) -> u64 {
    let mode = world.mode;
    world.migrate(0, 1);
    assert!(settled(&mut world));
    let lazy = world.log.iter().any(|line| line.contains("-> lazy") || line.contains("lazy ->"));
    assert_eq!(lazy, matches!(mode, Mode::Postcopy | Mode::Hybrid), "{mode:?}");
    world.boundary
}

fn prepared(seed: u64, mode: Mode) -> World {
    let mut world = World::new(seed, 3, mode);
    if mode == Mode::Hybrid {
        // A program that dirties more than can be sent within the limit, so that hybrid really switches.
        world.nodes[0].instance.as_mut().unwrap().guest.writes = 40;
        world.options.max_downtime = Duration::from_millis(4);
    }
    serves(&mut world, 0, 10);
    world.boundary = 0;
    world
}

/// Runs until nothing is in progress: one instance runs and no machine is busy, or the time is up.
fn settled(world: &mut World) -> bool {
    let over = |world: &World| {
        let idle = |node: usize| matches!(world.phase(node), "ended" | "none");
        world.running().len() == 1 && (0..world.nodes.len()).all(|node| world.nodes[node].alive && idle(node))
    };
    // Twice, because a clock that jumps uses the first limit up at once.
    world.run(Duration::from_secs(400), over) || world.run(Duration::from_secs(400), over)
}

/// One migration per message boundary, with `fault` at it.
fn matrix(faults: &[Fault]) {
    matrix_of(faults, prepared);
}

/// The same in worlds of one's own.
fn matrix_of(faults: &[Fault], prepared: impl Fn(u64, Mode) -> World) {
    for mode in MODES {
        let all = boundaries(prepared(7, mode));
        assert!(all > 10, "{mode:?} has {all} boundaries only");
        for fault in faults {
            for at in 1..=all {
                let mut world = prepared(7, mode);
                world.plan = Some((at, *fault));
                let committed = world.record().version;
                world.migrate(0, 1);
                let over = settled(&mut world);
                assert!(world.fired, "{mode:?} {fault:?} at {at} of {all} never happened");
                assert!(
                    over,
                    "{mode:?} {fault:?} at {at}: {} {} {}",
                    world.phase(0),
                    world.phase(1),
                    world.running().len()
                );
                assert!(world.record().version >= committed);
                let node = world.running()[0];
                serves(&mut world, node, 5);
                // What is left must be able to move again.
                let next = if node == 2 { 0 } else { 2 };
                world.plan = None;
                world.migrate(node, next);
                assert!(settled(&mut world), "{mode:?} {fault:?} at {at}: cannot move on");
                assert_eq!(world.running(), [next], "{mode:?} {fault:?} at {at}: did not move on");
                if !matches!(fault, Fault::Kill(_) | Fault::KillForever(_)) {
                    world.assert_no_request_lost_or_doubled();
                }
            }
        }
    }
}

/// A program with a private volume that has been at the destination before, so that some of the volume is there.
fn with_volume(seed: u64, mode: Mode) -> World {
    let mut world = World::new(seed, 3, mode);
    world.volume = true;
    serves(&mut world, 0, 20);
    for (from, to) in [(0, 1), (1, 0)] {
        world.migrate(from, to);
        assert!(settled(&mut world));
        serves(&mut world, to, 20);
    }
    if mode == Mode::Hybrid {
        world.nodes[0].instance.as_mut().unwrap().guest.writes = 40;
        world.options.max_downtime = Duration::from_millis(4);
    }
    serves(&mut world, 0, 40);
    world.boundary = 0;
    world.log.clear();
    world
}

#[test]
fn a_volume_is_whole_at_the_destination_whatever_dies_or_is_cut_when() {
    matrix_of(&[Fault::Kill(0), Fault::Kill(1), Fault::Cut], with_volume);
}

#[test]
fn a_volume_goes_ahead_of_the_stop_without_what_is_there_and_with_the_state_in_version_1() {
    use dunlin_handover::message::Versions;
    for mode in MODES {
        for newest in [1, 2] {
            let mut world = with_volume(11, mode);
            let counter = world.nodes[0].instance.as_ref().unwrap().guest.state.counter;
            let before = guest::volume(counter);
            let there = world.nodes[1].store.len();
            assert!((1..before.len()).contains(&there), "{there} of {} chunks are there", before.len());
            let versions = Versions { oldest: 1, newest };
            world.migrate_with(0, 1, |config| config.versions = versions, |_| {});
            assert!(settled(&mut world));
            assert_eq!(world.running(), [1], "{mode:?}");
            assert!(world.nodes[1].store.len() >= before.len());
            let sent = |kind: &str| world.log.iter().filter(|line| line.contains(kind)).count();
            let (held, chunks, final_) = (sent("kind 0x08"), sent("kind 0x16"), sent("kind 0x14"));
            assert_eq!(final_, 1);
            assert_eq!((held > 0, chunks > 0), (newest == 2, newest == 2), "{mode:?} {newest}");
            if newest == 2 {
                // Three at a time, and what was there is not among them.
                let most = guest::volume(u64::MAX).len() - there;
                assert!(chunks <= most.div_ceil(3) + 3, "{mode:?}: {chunks} messages");
            }
        }
    }
}

#[test]
fn m2_the_source_dies_at_every_boundary() {
    matrix(&[Fault::Kill(0)]);
}

#[test]
fn m2_the_destination_dies_at_every_boundary() {
    matrix(&[Fault::Kill(1)]);
}

#[test]
fn m2_the_ledger_is_away_at_every_boundary() {
    matrix(&[Fault::LedgerDown]);
}

#[test]
fn m2_m15_the_link_is_cut_at_every_boundary() {
    matrix(&[Fault::Cut, Fault::SilentCut]);
}

#[test]
fn m3_ledger_messages_are_lost_doubled_and_delayed_at_every_boundary() {
    matrix(&[Fault::DropLedger, Fault::DuplicateLedger, Fault::DelayLedger]);
}

#[test]
fn m11_m12_the_stream_is_tampered_with_at_every_boundary() {
    matrix(&[Fault::ChangeFrame, Fault::DropFrame, Fault::RepeatFrame, Fault::SwapFrames]);
}

#[test]
fn m16_m17_cancelled_at_every_boundary_then_moved_elsewhere() {
    matrix(&[Fault::Cancel(0), Fault::Cancel(1)]);
}

#[test]
fn m25_the_clock_jumps_at_every_boundary() {
    matrix(&[Fault::Jump]);
}

#[test]
fn m2_a_node_that_never_comes_back_is_recovered_by_the_owner() {
    for mode in MODES {
        let all = boundaries(prepared(7, mode));
        for (victim, at) in (0..2).flat_map(|victim| (1..=all).map(move |at| (victim, at))) {
            let mut world = prepared(7, mode);
            world.plan = Some((at, Fault::KillForever(victim)));
            world.migrate(0, 1);
            let elsewhere = |world: &World| world.running().len() == 1 && world.running()[0] != victim;
            let long = world.now + Duration::from_secs(60);
            let over = |world: &World| elsewhere(world) && world.now > long;
            assert!(world.run(Duration::from_secs(100), over), "{mode:?} {victim} at {at}");
            let node = world.running()[0];
            serves(&mut world, node, 5);
        }
    }
}

#[test]
fn m18_ping_pong_a_hundred_times() {
    let mut world = World::new(18, 2, Mode::Auto);
    let first = world.record().epoch;
    for hop in 0..100 {
        let (from, to) = (hop % 2, (hop + 1) % 2);
        serves(&mut world, from, 3);
        world.migrate(from, to);
        assert!(settled(&mut world));
        assert_eq!(world.running(), [to]);
        assert_eq!(world.record().epoch, first + 1 + hop as u64, "the epoch rises by one with every move");
    }
    serves(&mut world, 0, 10);
    world.assert_no_request_lost_or_doubled();
}

#[test]
fn m24_a_disk_that_cannot_stage_leaves_the_source_serving_and_the_next_move_works() {
    for mode in MODES {
        let mut world = prepared(24, mode);
        world.fail_staging = 1;
        world.migrate(0, 1);
        assert!(settled(&mut world));
        assert_eq!(world.running(), [0], "{mode:?}");
        assert!(matches!(world.source(0).outcome(), Some(Outcome::Stayed { cancelled: false, .. })));
        world.migrate(0, 1);
        assert!(settled(&mut world));
        assert_eq!(world.running(), [1], "{mode:?}");
        world.assert_no_request_lost_or_doubled();
    }
}

#[test]
#[should_panic(expected = "no disk has the committed state")]
fn m10_a_destination_that_says_staged_without_writing_is_caught() {
    let mut world = prepared(10, Mode::Stop);
    world.lie_staging = 1;
    world.migrate(0, 1);
    settled(&mut world);
}

#[test]
fn m9_m15_no_transfer_without_staged_and_none_while_the_ledger_is_away() {
    // The link ends before the destination's word arrives: the ledger never hears of a transfer.
    let mut world = prepared(9, Mode::Stop);
    world.migrate(0, 1);
    let version = world.record().version;
    assert!(world.run(Duration::from_secs(5), |world| world.phase(0) == "staging"));
    world.cut(true);
    assert!(settled(&mut world));
    assert_eq!((world.running(), world.record().epoch), (vec![0], 2));
    assert!(world.record().version >= version);
    assert!(!world.log.iter().any(|line| line.contains("asks transfer")));
}

#[test]
fn postcopy_link_loss_pauses_then_recovers_or_gives_back() {
    let all = boundaries(prepared(7, Mode::Postcopy));
    for (give_back, at) in [false, true].into_iter().flat_map(|give_back| (1..=all).map(move |at| (give_back, at))) {
        let mut world = prepared(7, Mode::Postcopy);
        // Shorter than the second after which the link is back, so that the move is undone through the ledger.
        world.limits.give_back = give_back.then(|| Duration::from_millis(300));
        world.plan = Some((at, Fault::Cut));
        world.migrate(0, 1);
        let was_lazy = |world: &World| world.log.iter().any(|line| line.contains("lazy -> paused"));
        assert!(settled(&mut world), "{give_back} at {at}: {} {}", world.phase(0), world.phase(1));
        let node = world.running()[0];
        let paused = world.log.iter().any(|line| line.contains("node 1 is told") && line.ends_with("paused"));
        match (paused, give_back) {
            (true, true) => assert!(node == 0 && matches!(world.source(0).outcome(), Some(Outcome::Returned { .. }))),
            (true, false) => assert_eq!(node, 1),
            (false, _) => assert!(!was_lazy(&world)),
        }
        serves(&mut world, node, 10);
        if !give_back {
            world.assert_no_request_lost_or_doubled();
        }
    }
}

#[test]
fn postcopy_recovers_between_versions_too_and_says_what_is_in_place_where_there_are_words_for_that() {
    use dunlin_handover::message::Versions;
    for (ours, theirs) in [(2, 3), (3, 2), (3, 3)] {
        let versions = |newest| Versions { oldest: 1, newest };
        let begun = || {
            let mut world = prepared(8, Mode::Postcopy);
            world.migrate_with(0, 1, |c| c.versions = versions(ours), |c| c.versions = versions(theirs));
            world
        };
        let mut world = begun();
        assert!(settled(&mut world));
        let (all, said) = (world.boundary, world.log.iter().any(|line| line.contains("kind 0x35")));
        assert_eq!(said, ours.min(theirs) == 3, "{ours} {theirs}");
        for at in 1..=all {
            let mut world = begun();
            world.plan = Some((at, Fault::Cut));
            assert!(settled(&mut world), "{ours} {theirs} at {at}: {} {}", world.phase(0), world.phase(1));
            let node = world.running()[0];
            serves(&mut world, node, 10);
            world.assert_no_request_lost_or_doubled();
        }
    }
}

#[test]
fn an_adversary_that_dirties_every_page_ends_by_policy() {
    use dunlin_handover::converge::TimeoutAction;
    let adversary = |mode, action, postcopy| {
        let mut world = World::new(3, 2, mode);
        world.nodes[0].instance.as_mut().unwrap().guest.writes = 48;
        world.options.max_downtime = Duration::from_millis(4);
        world.options.timeout_action = action;
        world.postcopy = postcopy;
        serves(&mut world, 0, 3);
        world.migrate(0, 1);
        assert!(settled(&mut world), "{mode:?} does not end");
        world.assert_no_request_lost_or_doubled();
        (world.running()[0], world.source(0).outcome().cloned())
    };
    let (node, outcome) = adversary(Mode::Precopy, TimeoutAction::Abort, true);
    assert!(node == 0 && matches!(outcome, Some(Outcome::Stayed { .. })), "{outcome:?}");
    for (mode, action, postcopy) in [
        (Mode::Precopy, TimeoutAction::Stop, false),
        (Mode::Precopy, TimeoutAction::Postcopy, true),
        (Mode::Hybrid, TimeoutAction::Abort, true),
        (Mode::Auto, TimeoutAction::Abort, true),
        (Mode::Auto, TimeoutAction::Stop, false),
    ] {
        assert_eq!(adversary(mode, action, postcopy).0, 1, "{mode:?} {action:?}");
    }
}

#[test]
fn a_dry_run_moves_nothing_and_names_what_blocks() {
    let mut world = prepared(30, Mode::Auto);
    world.migrate_with(0, 1, |config| config.dry_run = true, |_| {});
    assert!(settled(&mut world));
    assert_eq!(world.source(0).outcome(), Some(&Outcome::DryRun { blocked: Vec::new() }));
    let other_policy = dunlin_base::Digest::of(b"another policy");
    world.migrate_with(0, 1, |config| config.dry_run = true, |config| config.policy_hash = other_policy);
    assert!(settled(&mut world));
    let blocked = world.source(0).statistics(world.now).blocked_reasons;
    assert_eq!(blocked.len(), 1);
    assert!(blocked[0].starts_with("policy: "), "{blocked:?}");
    assert_eq!((world.running(), world.record().epoch), (vec![0], 2));
}

#[test]
fn versions_n_and_n_minus_1_meet_and_others_are_refused_by_name() {
    use dunlin_handover::message::Versions;
    let versions = |oldest, newest| Versions { oldest, newest };
    let meet = |ours, theirs| {
        let mut world = prepared(31, Mode::Auto);
        world.migrate_with(0, 1, |config| config.versions = ours, |config| config.versions = theirs);
        assert!(settled(&mut world));
        (world.running()[0], world.source(0).statistics(world.now).error_desc)
    };
    assert_eq!(meet(versions(1, 2), versions(1, 1)).0, 1);
    assert_eq!(meet(versions(1, 1), versions(1, 2)).0, 1);
    assert_eq!(meet(versions(2, 3), versions(1, 2)).0, 1);
    let (node, error) = meet(versions(3, 4), versions(1, 2));
    assert_eq!(node, 0);
    assert!(error.is_some_and(|error| error.contains("protocol-version: source speaks 3 to 4, destination 1 to 2")));
}
