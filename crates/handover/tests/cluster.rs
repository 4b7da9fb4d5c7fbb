//! Clusters of four nodes under a storm: moves between random nodes in random modes, with one random fault in each,
//! and a ledger that loses, doubles and delays. Set `DUNLIN_SEEDS` to run more of them, `DUNLIN_SEED` to repeat one.

mod world;

use std::time::Duration;

use dunlin_handover::converge::Mode;
use world::{Fault, Rng, World};

fn storm(seed: u64) {
    let mut rng = Rng(seed);
    let modes = [Mode::Stop, Mode::Precopy, Mode::Postcopy, Mode::Hybrid, Mode::Auto];
    let mut world = World::new(seed, 4, Mode::Auto);
    world.ledger_trouble = [0, 3, 10][rng.below(3) as usize];
    for _ in 0..6 {
        let served = world.effects.len();
        assert!(world.run(Duration::from_secs(600), |world| world.effects.len() > served), "nothing is served");
        let from = world.running()[0];
        let to = (from + 1 + rng.below(3) as usize) % 4;
        let busy = |node: usize| !matches!(world.phase(node), "none" | "ended");
        if (0..4).any(|node| busy(node) || !world.nodes[node].alive) {
            world.run(Duration::from_secs(3), |_| false);
            continue;
        }
        world.mode = modes[rng.below(5) as usize];
        world.options.mode = world.mode;
        world.nodes[from].instance.as_mut().unwrap().guest.writes = 1 + rng.below(40);
        world.limits.give_back = rng.one_in(3).then(|| Duration::from_millis(200 + rng.below(3000)));
        let fault = match rng.below(14) {
            0 => Fault::Kill(from),
            1 => Fault::Kill(to),
            2 => Fault::LedgerDown,
            3 => Fault::Cut,
            4 => Fault::SilentCut,
            5 => Fault::DropLedger,
            6 => Fault::DuplicateLedger,
            7 => Fault::DelayLedger,
            8 => Fault::ChangeFrame,
            9 => Fault::DropFrame,
            10 => Fault::RepeatFrame,
            11 => Fault::SwapFrames,
            12 => Fault::Cancel(if rng.one_in(2) { from } else { to }),
            _ => Fault::Jump,
        };
        world.fired = false;
        world.plan = Some((world.boundary + 1 + rng.below(30), fault));
        world.migrate(from, to);
        world.run(Duration::from_millis(rng.below(8000)), |_| false);
    }
    world.plan = None;
    let served = world.effects.len();
    assert!(world.run(Duration::from_secs(900), |world| world.effects.len() > served + 10), "nothing is served");
}

#[test]
fn x_one_owner_and_one_copy_whatever_happens() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("DUNLIN_SEED") {
        return storm(seed);
    }
    for seed in 0..number("DUNLIN_SEEDS").unwrap_or(60) {
        storm(seed);
    }
}
