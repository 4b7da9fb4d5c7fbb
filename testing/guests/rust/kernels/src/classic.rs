//! Recursion, sorting, maps, allocation and the usual small benchmarks.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

use crate::data::{Random, mix, sum_floats, sum_integers};

pub fn fib(n: usize) -> u64 {
    if n < 2 { n as u64 } else { fib(n - 1) + fib(n - 2) }
}

/// Ackermann's function of 3 and `n`: recursion of every depth up to 2^(n + 3).
pub fn ackermann(n: usize) -> u64 {
    fn call(m: u64, n: u64) -> u64 {
        match (m, n) {
            (0, n) => n + 1,
            (m, 0) => call(m - 1, 1),
            (m, n) => call(m - 1, call(m, n - 1)),
        }
    }
    call(3, n as u64)
}

pub fn quicksort(n: usize) -> u64 {
    fn sort(values: &mut [u32]) {
        if values.len() < 2 {
            return;
        }
        let pivot = values[values.len() / 2];
        let (mut low, mut high) = (0, values.len() - 1);
        loop {
            while values[low] < pivot {
                low += 1;
            }
            while values[high] > pivot {
                high -= 1;
            }
            if low >= high {
                break;
            }
            values.swap(low, high);
            low += 1;
            high -= 1;
        }
        let (left, right) = values.split_at_mut(low);
        sort(left);
        sort(right);
    }
    let mut random = Random::new(19);
    let mut values: Vec<u32> = (0..n).map(|_| random.next() as u32).collect();
    sort(&mut values);
    assert!(values.is_sorted());
    sum_integers(values.iter().map(|&value| value.into()))
}

/// The library's two sorts: the stable one over pairs, then the unstable one over numbers.
pub fn std_sort(n: usize) -> u64 {
    let mut random = Random::new(23);
    let mut pairs: Vec<(u16, u64)> = (0..n).map(|_| (random.next() as u16, random.next())).collect();
    pairs.sort_by_key(|pair| pair.0);
    let mut numbers: Vec<u64> = pairs.iter().map(|pair| pair.1).collect();
    numbers.sort_unstable();
    sum_integers(pairs.into_iter().map(|pair| pair.1).chain(numbers))
}

/// Inserts, counts, looks up and removes. The hasher has fixed keys: every run does the same.
pub fn hash_map(n: usize) -> u64 {
    let mut random = Random::new(29);
    let mut map: HashMap<u64, u64, BuildHasherDefault<DefaultHasher>> = HashMap::default();
    for i in 0..n {
        *map.entry(random.below(n) as u64).or_insert(0) += i as u64;
    }
    let mut sum = map.len() as u64;
    for key in 0..n as u64 {
        match map.get(&key) {
            Some(value) => sum = mix(sum, *value),
            None => sum += 1,
        }
        if key % 3 == 0 {
            map.remove(&key);
        }
    }
    mix(sum, map.len() as u64)
}

/// The number of ways to place `n` queens.
pub fn nqueens(n: usize) -> u64 {
    fn place(all: u32, columns: u32, left: u32, right: u32) -> u64 {
        if columns == all {
            return 1;
        }
        let mut free = all & !(columns | left | right);
        let mut found = 0;
        while free != 0 {
            let queen = free & free.wrapping_neg();
            free ^= queen;
            found += place(all, columns | queen, (left | queen) << 1, (right | queen) >> 1);
        }
        found
    }
    place((1 << n.min(20)) - 1, 0, 0, 0)
}

pub fn mandelbrot(n: usize) -> u64 {
    let step = 2.0 / n as f64;
    let points = (0..n * n).map(|at| ((at % n) as f64 * step - 1.5, (at / n) as f64 * step - 1.0));
    sum_integers(points.map(|(cx, cy)| {
        let (mut x, mut y) = (0.0, 0.0);
        for round in 0..100 {
            let (xx, yy) = (x * x, y * y);
            if xx + yy > 4.0 {
                return round;
            }
            y = 2.0 * x * y + cy;
            x = xx - yy + cx;
        }
        100
    }))
}

/// Five bodies, `steps` steps.
pub fn nbody(steps: usize) -> u64 {
    const MASSES: [f64; 5] = [39.5, 0.0377, 0.0113, 0.00172, 0.00203];
    const TIME: f64 = 0.01;
    let mut places =
        [[0.0, 0.0, 0.0], [4.84, -1.16, -0.10], [8.34, 4.12, -0.4], [12.89, -15.11, -0.22], [15.38, -25.9, 0.18]];
    let mut speeds =
        [[0.0, 0.0, 0.0], [0.6, 2.81, -0.02], [-1.01, 1.82, 0.008], [1.08, 0.86, -0.01], [0.97, 0.59, -0.03]];
    for _ in 0..steps {
        for i in 0..5 {
            for j in i + 1..5 {
                let apart: [f64; 3] = std::array::from_fn(|axis| places[i][axis] - places[j][axis]);
                let square = apart[0] * apart[0] + apart[1] * apart[1] + apart[2] * apart[2];
                let pull = TIME / (square * square.sqrt());
                for axis in 0..3 {
                    speeds[i][axis] -= apart[axis] * MASSES[j] * pull;
                    speeds[j][axis] += apart[axis] * MASSES[i] * pull;
                }
            }
        }
        for (place, speed) in places.iter_mut().zip(&speeds) {
            for axis in 0..3 {
                place[axis] += TIME * speed[axis];
            }
        }
    }
    sum_floats(places.iter().chain(&speeds).flatten())
}

/// The greatest number of flips over all permutations of `n`, and the checksum of all flips.
pub fn fannkuch(n: usize) -> u64 {
    let n = n.min(12);
    let mut order: [usize; 12] = std::array::from_fn(|i| i);
    let mut counts = [0; 12];
    let (mut most, mut sum, mut even) = (0, 0_i64, true);
    loop {
        let mut cards = order;
        let mut flips = 0;
        while cards[0] != 0 {
            let first = cards[0];
            cards[..=first].reverse();
            flips += 1;
        }
        most = most.max(flips);
        sum += if even { flips } else { -flips };
        even = !even;
        let mut at = 1;
        loop {
            if at == n {
                return mix(most as u64, sum as u64);
            }
            order[..=at].rotate_left(1);
            counts[at] += 1;
            if counts[at] <= at {
                break;
            }
            counts[at] = 0;
            at += 1;
        }
    }
}

/// Allocates, walks and frees trees up to a depth.
pub fn binary_trees(depth: usize) -> u64 {
    struct Tree(Option<Box<(Tree, Tree)>>);
    fn grow(depth: usize) -> Tree {
        Tree((depth > 0).then(|| Box::new((grow(depth - 1), grow(depth - 1)))))
    }
    fn count(tree: &Tree) -> u64 {
        1 + tree.0.as_ref().map_or(0, |children| count(&children.0) + count(&children.1))
    }
    let lasting = grow(depth);
    let mut sum = 0;
    for small in (2..depth).step_by(2) {
        for _ in 0..1 << (depth - small) {
            sum = mix(sum, count(&grow(small)));
        }
    }
    mix(sum, count(&lasting))
}

/// CoreMark with the seeds of its performance run; the result is its own checksums, not its speed.
pub fn coremark(iterations: usize) -> u64 {
    let config = coremark::Config { seed3: 0x66, iterations: iterations as u32, ..Default::default() };
    let results = coremark::run(&config);
    let sums = [results.crclist, results.crcmatrix, results.crcstate, results.crcfinal];
    sums.iter().fold(0, |sum, &part| sum << 16 | u64::from(part))
}
