//! A model of the ownership protocol: instances that crash at any moment, boot from any blob ever written, and a
//! network to the ledger that delays, reorders, repeats and loses. Every request goes through the real
//! [`LedgerState::apply`], so that the rule book that runs is the one that is checked.
//!
//! | Rule | What it says |
//! |---|---|
//! | R1 | an instance runs only after a fresh reading of the ledger and its own resume |
//! | R2 | an effect leaves only after the commit that it depends on was acknowledged |
//! | R3 | a state is sealed before its commit is sent |
//! | R4 | a transfer is sent only after the destination has durably staged |
//! | R5 | only the holder's platform can resume |
//! | R6 | a move whose transfer was sent is aborted by taking a new epoch |
//! | R7 | a destination runs only on the ledger's word, not on the source's |
//! | R8 | a commit is checked against epoch, version and holder |
//!
//! Each rule can be dropped, and the test of a dropped rule asks for its counter-example.

#[allow(unreachable_pub, dead_code, reason = "shared with other test programs")]
#[path = "../world/keys.rs"]
mod keys;
mod rules;
mod system;

use stateright::{Checker, Model, Property};

use rules::Rules;
use system::{Action, State, System};

impl Model for System {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.step(state, &action)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.record().epoch <= self.max_epoch
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("effects form one chain", |_, state: &State| !state.forked),
            Property::always("one active instance an epoch", |_, state: &State| state.active_epochs_differ()),
            Property::always("only a transfer moves the service", |_, state: &State| !state.stolen),
            Property::always("the committed state can be recovered", |_, state: &State| state.is_recoverable()),
            Property::always("nobody runs after its own transfer", |_, state: &State| !state.is_overtaken()),
            Property::sometimes("a destination commits", |_, state: &State| state.destination_committed),
            Property::sometimes("an aborted move goes on at the source", |_, state: &State| state.aborted_and_active),
        ]
    }
}

const SMALL: System = System { rules: Rules::ALL, instances: 3, operations: 2, max_epoch: 5 };

fn run(system: System) -> impl Checker<System> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = system.checker().threads(threads).spawn_bfs().join();
    println!("{} states, depth {}", checker.unique_state_count(), checker.max_depth());
    checker
}

fn with(rules: Rules) -> System {
    System { rules, ..SMALL }
}

/// The rules without the named ones must break exactly here. Stops at the first counter-example and prints it.
#[track_caller]
fn breaks(rules: Rules, property: &'static str) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let found = std::collections::HashSet::from([property]);
    let checker = with(rules)
        .checker()
        .threads(threads)
        .finish_when(stateright::HasDiscoveries::AllOf(found.into_iter().collect()))
        .spawn_bfs()
        .join();
    let path = checker.assert_any_discovery(property);
    let steps = path.into_actions();
    println!("{property}: broken after {} steps: {steps:?}", steps.len());
}

/// The rules without the named ones keep `properties` in all states.
#[track_caller]
fn keeps(rules: Rules, properties: &[&'static str]) {
    let checker = run(with(rules));
    for property in properties {
        checker.assert_no_discovery(property);
    }
}

#[test]
fn x1_all_rules_are_safe_and_recoverable() {
    let checker = run(SMALL);
    checker.assert_properties();
    assert!(checker.unique_state_count() > 10_000, "the model is too small to say anything");
}

/// The whole space of four instances is too large: this generates the first ten million of its states, breadth first.
#[test]
#[ignore = "minutes and gigabytes: run it when the protocol changes"]
fn x1_all_rules_are_safe_and_recoverable_with_four_instances() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let system = System { instances: 4, max_epoch: 6, ..SMALL };
    let checker = system.checker().threads(threads).target_state_count(10_000_000).spawn_bfs().join();
    println!("{} states, depth {}", checker.unique_state_count(), checker.max_depth());
    for property in system.properties() {
        if property.expectation == stateright::Expectation::Always {
            checker.assert_no_discovery(property.name);
        }
    }
}

#[test]
fn x2_r1_dropped_two_active_instances() {
    breaks(Rules { read_before_run: false, ..Rules::ALL }, "one active instance an epoch");
}

#[test]
fn x2_r2_dropped_fork() {
    breaks(Rules { effects_after_commit: false, ..Rules::ALL }, "effects form one chain");
}

#[test]
fn x2_r3_dropped_stuck() {
    breaks(Rules { seal_before_commit: false, ..Rules::ALL }, "the committed state can be recovered");
}

#[test]
fn x2_r4_dropped_transfer_without_staged_stuck() {
    breaks(Rules { transfer_after_staged: false, ..Rules::ALL }, "the committed state can be recovered");
}

#[test]
fn x2_r4_dropped_staged_without_sealing_stuck() {
    breaks(Rules { staged_after_seal: false, ..Rules::ALL }, "the committed state can be recovered");
}

#[test]
fn x2_r5_dropped_stolen() {
    breaks(Rules { resume_on_holder_platform: false, ..Rules::ALL }, "only a transfer moves the service");
}

#[test]
fn x2_r6_dropped_overtaken_alone_no_fork_and_with_r2_fork() {
    let r6 = Rules { abort_takes_epoch: false, ..Rules::ALL };
    keeps(r6, &["effects form one chain", "the committed state can be recovered"]);
    breaks(r6, "nobody runs after its own transfer");
    breaks(Rules { effects_after_commit: false, ..r6 }, "effects form one chain");
}

#[test]
fn x2_r7_dropped_two_active_alone_no_fork_and_with_r2_fork() {
    let r7 = Rules { destination_reads_ledger: false, ..Rules::ALL };
    keeps(r7, &["effects form one chain", "the committed state can be recovered"]);
    breaks(r7, "one active instance an epoch");
    breaks(Rules { effects_after_commit: false, ..r7 }, "effects form one chain");
}

#[test]
fn x2_r8_dropped_stuck() {
    breaks(Rules { commit_is_checked: false, ..Rules::ALL }, "the committed state can be recovered");
}
