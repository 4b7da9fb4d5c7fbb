//! Host calls that were blocked when the stop came, and are issued again after the move.

use dunlin_engine::Outcome;

use crate::failure::{Failure, fail};
use crate::master::on_stack;
use crate::subject::{Call, Subject};
use crate::world::{Env, World as _};

/// The most moves of one run; then it goes on undisturbed.
const MOVES: u64 = 500;

/// Runs `call` with a host that asks for each of its calls to be issued again, moves it from engine to engine each
/// time, and compares with the run in which the host answers at once. Tells how often it moved.
///
/// # Errors
/// What differs.
pub fn reissued(subject: &Subject, call: &Call, seed: u64) -> Result<u64, Failure> {
    on_stack(|| run(subject, call, seed)).map_err(|failure| failure.within(format_args!("{}: reissue", subject.name)))
}

fn run(subject: &Subject, call: &Call, seed: u64) -> Result<u64, Failure> {
    if subject.map.start.is_some() && matches!(call, Call::Invoke { .. }) {
        // The start function is to run undisturbed then, but its calls would be reissued too.
        return Ok(0);
    }
    let (blocking, answering) = (Env { reissue: true }, Env::default());
    let codes = &subject.codes;
    let first = seed as usize;
    let mut undisturbed = subject.begin(&codes[0].fresh, &answering, call)?;
    let outcome = subject.run(&mut undisturbed, call)?;
    let expected = subject.end(&mut undisturbed, outcome, &answering, &[])?;
    let mut instance = subject.begin(&codes[first % codes.len()].fresh, &blocking, call)?;
    let mut outcome = subject.run(&mut instance, call)?;
    let (mut moves, mut seen) = (0, Vec::new());
    while outcome == Outcome::Stopped {
        moves += 1;
        let world = if moves < MOVES { &blocking } else { &answering };
        let stopped = subject.capture(instance, world)?;
        seen.extend_from_slice(&stopped.seen);
        let code = &codes[(first + moves as usize) % codes.len()].resume;
        instance = subject.restore(code, &stopped.bytes, world)?;
        outcome = subject.resume(&mut instance, call)?;
    }
    subject.end(&mut instance, outcome, &answering, &seen)?.same_as(&expected)?;
    let mut host = answering.fresh();
    if moves == 0 && expected.seen != answering.seen(&mut *host) {
        fail!("the host was called, but no call was issued again");
    }
    Ok(moves)
}
