//! Goal: whoever a source accepts is at the other end of its session, is the machine of the provider that the policy
//! permits, and made its evidence for this session: whatever an attacker does that carries all messages and has stolen
//! all TLS keys. And each rule of the handshake is there for an attack that it alone, or together
//! with others, prevents.
//!
//! Method: all runs of a small symbolic model are searched (crate `stateright`). Source A and destination B are at the
//! permitted provider, C is a genuine machine of another one; M is the attacker. Signatures and evidence are terms that
//! only their makers can make. Then rules are dropped, alone and together, and the shortest attacks are compared with
//! what was found when this model was written.

use std::collections::BTreeSet;

use stateright::{Checker, Model, Property};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Party {
    A,
    B,
    C,
    /// The attacker.
    M,
}
use Party::{A, B, C, M};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Role {
    Source,
    Destination,
}

/// What evidence is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Proof {
    /// Whose platform made it.
    platform: Party,
    role: Role,
    /// The exporter, by the session that has it.
    exporter: u8,
    /// The challenger's nonce, by the end of a session that drew it.
    nonce: u8,
    /// The TLS key of the attester, and of the other end as the attester saw it.
    own: Party,
    peer: Party,
}

/// One session, as an honest end sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct End {
    /// The honest party at this end.
    me: Party,
    role: Role,
    /// Whose certificate the other end showed.
    shown: Party,
    /// Who is really at the other end: an honest end, by its number, or the attacker.
    other: Option<u8>,
    exporter: u8,
    /// This end's own nonce.
    nonce: u8,
    /// The nonce that came.
    challenged: Option<u8>,
    proved: bool,
    accepted: Option<Proof>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    ends: Vec<End>,
    known: BTreeSet<Proof>,
    exporters: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    /// Two honest parties open a session that the attacker only carries.
    Join(Party, Party),
    /// An honest party opens a session with the attacker, who shows somebody's certificate. With a resumed session the
    /// exporter is that of an earlier one.
    Trap(Party, Role, Party, Option<u8>),
    /// The attacker sends a nonce to an end of his.
    Challenge(u8, u8),
    /// An end proves itself.
    Prove(u8),
    /// An end accepts a proof.
    Accept(u8, Proof),
}

/// The rules, each of which can be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rules {
    /// Evidence is bound to the exporter.
    exporter: bool,
    /// Every session has an exporter of its own: none is resumed.
    fresh: bool,
    /// Evidence is bound to the challenger's nonce.
    nonce: bool,
    /// Evidence is bound to the role.
    role: bool,
    /// Evidence is bound to both keys, in the attester's order.
    keys: bool,
    /// A nonce that is one's own is not answered.
    mirror: bool,
    /// The machine must be of the provider that the policy permits.
    provider: bool,
}

const ALL: Rules =
    Rules { exporter: true, fresh: true, nonce: true, role: true, keys: true, mirror: true, provider: true };

struct World {
    rules: Rules,
    /// How many ends there may be.
    ends: usize,
}

impl World {
    fn accepts(&self, end: &End, proof: &Proof) -> bool {
        let rules = &self.rules;
        let wanted = if end.role == Role::Source { Role::Destination } else { Role::Source };
        (!rules.exporter || proof.exporter == end.exporter)
            && (!rules.nonce || proof.nonce == end.nonce)
            && (!rules.role || proof.role == wanted)
            && (!rules.keys || (proof.own == end.shown && proof.peer == end.me))
            && (!rules.provider || matches!(proof.platform, A | B))
    }
}

impl Model for World {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State { ends: Vec::new(), known: BTreeSet::new(), exporters: 0 }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.ends.len() + 2 <= self.ends {
            steps.extend([Step::Join(A, B), Step::Join(A, C)]);
        }
        if state.ends.len() < self.ends {
            for shown in [A, B, C, M] {
                for (me, role) in [(A, Role::Source), (B, Role::Destination), (C, Role::Destination), (B, Role::Source)]
                {
                    steps.push(Step::Trap(me, role, shown, None));
                    if !self.rules.fresh {
                        steps.extend((0..state.exporters).map(|old| Step::Trap(me, role, shown, Some(old))));
                    }
                }
            }
        }
        for (index, end) in state.ends.iter().enumerate() {
            let index = index as u8;
            if end.other.is_none() && end.challenged.is_none() {
                // Any nonce that he has seen. Those that he makes up himself are of no use to him.
                let nonces = state.ends.iter().map(|other| other.nonce);
                let mirror = self.rules.mirror;
                steps.extend(
                    nonces.filter(|nonce| !mirror || *nonce != end.nonce).map(|nonce| Step::Challenge(index, nonce)),
                );
            }
            if end.challenged.is_some() && !end.proved {
                steps.push(Step::Prove(index));
            }
            if end.accepted.is_none() {
                steps.extend(
                    state
                        .known
                        .iter()
                        .filter(|proof| self.accepts(end, proof))
                        .map(|proof| Step::Accept(index, *proof)),
                );
            }
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut state = state.clone();
        let number = state.ends.len() as u8;
        let new = |me, role, shown, other, exporter, nonce, challenged| End {
            me,
            role,
            shown,
            other,
            exporter,
            nonce,
            challenged,
            proved: false,
            accepted: None,
        };
        match step {
            Step::Join(asks, asked) => {
                let exporter = state.exporters;
                state.exporters += 1;
                let (near, far) = (number, number + 1);
                state.ends.push(new(asks, Role::Source, asked, Some(far), exporter, near, Some(far)));
                state.ends.push(new(asked, Role::Destination, asks, Some(near), exporter, far, Some(near)));
            }
            Step::Trap(me, role, shown, resumed) => {
                let exporter = resumed.unwrap_or(state.exporters);
                state.exporters += u8::from(resumed.is_none());
                state.ends.push(new(me, role, shown, None, exporter, number, None));
            }
            Step::Challenge(end, nonce) => state.ends[usize::from(end)].challenged = Some(nonce),
            Step::Prove(end) => {
                let end = &mut state.ends[usize::from(end)];
                end.proved = true;
                let End { me, role, shown, exporter, .. } = *end;
                let nonce = end.challenged?;
                // What travels in a session of two honest ends is known to them only, but that adds nothing for them:
                // letting the attacker have it makes him stronger than he is.
                state.known.insert(Proof { platform: me, role, exporter, nonce, own: me, peer: shown });
            }
            Step::Accept(end, proof) => state.ends[usize::from(end)].accepted = Some(proof),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("whoever a source accepts is there, permitted, and proved this", |_, state: &State| {
                state.ends.iter().filter(|end| end.role == Role::Source && end.me == A).all(|end| {
                    end.accepted.is_none_or(|proof| {
                        let there = end.other.and_then(|other| state.ends.get(usize::from(other)));
                        there.is_some_and(|there| {
                            there.me == B && proof.platform == B && proof.role == Role::Destination && there.proved
                        })
                    })
                })
            }),
            Property::sometimes("a source accepts its destination", |_, state: &State| {
                state.ends.iter().any(|end| end.role == Role::Source && end.accepted.is_some())
            }),
        ]
    }
}

/// The number of steps of the shortest attack, if there is one.
fn attack(rules: Rules) -> Option<usize> {
    let checker = World { rules, ends: 3 }.checker().spawn_bfs().join();
    checker.assert_any_discovery("a source accepts its destination");
    let found = checker.discovery("whoever a source accepts is there, permitted, and proved this");
    found.map(|path| path.into_actions().len())
}

#[test]
fn no_attack_on_all_rules() {
    assert_eq!(attack(ALL), None);
}

#[test]
fn relay_without_the_exporter_in_the_evidence() {
    // B, challenged by the attacker with A's nonce, proves itself to him, and A takes it for its own session.
    assert_eq!(attack(Rules { exporter: false, ..ALL }), Some(5));
}

#[test]
fn relay_where_sessions_are_resumed() {
    // The same, with two sessions that have one exporter.
    assert_eq!(attack(Rules { fresh: false, ..ALL }), Some(5));
    assert_eq!(attack(Rules { fresh: false, keys: false, ..ALL }), Some(5));
}

#[test]
fn nonces_and_keys_are_a_second_line_behind_the_exporter() {
    assert_eq!(attack(Rules { nonce: false, ..ALL }), None, "no two sessions have one exporter");
    assert_eq!(attack(Rules { keys: false, ..ALL }), None);
    assert_eq!(attack(Rules { nonce: false, keys: false, ..ALL }), None);
}

#[test]
fn reflection_where_roles_have_no_direction_and_ones_own_nonce_is_answered() {
    assert_eq!(attack(Rules { role: false, ..ALL }), None);
    assert_eq!(attack(Rules { mirror: false, ..ALL }), None);
    // A is shown its own certificate and proves itself to itself.
    assert_eq!(attack(Rules { role: false, mirror: false, ..ALL }), Some(4));
}

#[test]
fn diversion_without_the_provider() {
    assert_eq!(attack(Rules { provider: false, ..ALL }), Some(3));
}
