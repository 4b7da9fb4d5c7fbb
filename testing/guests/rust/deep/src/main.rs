//! Deep mutual recursion through a function table, with values of every number type alive across each call.
//!
//! `deep DEPTH REPEAT` prints what came back from the bottom.

use std::hint::black_box;

type Step = fn(u32, i64, f32, f64) -> (i64, f64);

/// Each step calls one of these, picked by its own values: the compiler cannot know which.
static STEPS: [Step; 4] = [left, right, middle, turn];

fn main() {
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let [depth, repeat] = numbers[..] else {
        eprintln!("usage: deep DEPTH REPEAT");
        std::process::exit(2);
    };
    for round in 0..repeat {
        let (whole, real) = descend(depth, i64::from(round) + 1, 1.5, 0.25);
        println!("round {round} depth {depth}: {whole} {:016x}", real.to_bits());
    }
}

fn descend(depth: u32, whole: i64, single: f32, double: f64) -> (i64, f64) {
    if depth == 0 {
        return (whole, f64::from(single) + double);
    }
    let next = (depth.wrapping_mul(2_654_435_761) >> 13) as usize ^ whole as usize;
    black_box(&STEPS)[next % STEPS.len()](depth, whole, single, double)
}

// Every function uses its own arguments after the call, so that all of them must survive it.

fn left(depth: u32, whole: i64, single: f32, double: f64) -> (i64, f64) {
    let kept = single * 0.75 + depth as f32;
    let (a, b) = descend(depth - 1, whole.wrapping_mul(3) ^ 0x55, kept * 0.001, double + 0.5);
    (a.wrapping_add(whole ^ i64::from(depth)), b * 0.5 + f64::from(kept) + double)
}

fn right(depth: u32, whole: i64, single: f32, double: f64) -> (i64, f64) {
    let kept = double * 0.125 - f64::from(depth);
    let (a, b) = descend(depth - 1, whole.rotate_left(7), single + 0.5, kept * 0.0001);
    (a ^ whole.wrapping_add(i64::from(depth)), b * 0.25 - kept + f64::from(single))
}

fn middle(depth: u32, whole: i64, single: f32, double: f64) -> (i64, f64) {
    let kept = whole.wrapping_mul(i64::from(depth) | 1);
    let (a, b) = descend(depth - 1, kept >> 3, single * 0.5, double * 0.5);
    let (c, d) = descend(0, whole, single, double);
    (a.wrapping_sub(kept).wrapping_add(c), b * 0.75 + d)
}

fn turn(depth: u32, whole: i64, single: f32, double: f64) -> (i64, f64) {
    let kept = [single, single * 2.0, depth as f32];
    let (a, b) = descend(depth - 1, !whole, kept[depth as usize % 3] * 0.01, -double);
    (a.wrapping_mul(5).wrapping_add(whole), b * 0.5 - f64::from(kept.iter().sum::<f32>()) + double)
}
