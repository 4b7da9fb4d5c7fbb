//! Dynamic programming.

use crate::data::{Random, sum_integers};

/// Shortest paths between all pairs.
pub fn floyd_warshall(n: usize) -> u64 {
    let mut random = Random::new(7);
    let mut paths: Vec<u32> =
        (0..n * n).map(|_| if random.below(4) == 0 { random.below(1000) } else { 9999 } as u32).collect();
    for k in 0..n {
        let through = paths[k * n..(k + 1) * n].to_vec();
        for row in paths.chunks_exact_mut(n) {
            let first = row[k];
            for (path, second) in row.iter_mut().zip(&through) {
                *path = (*path).min(first + second);
            }
        }
    }
    sum_integers(paths.iter().map(|&path| path.into()))
}

/// The greatest number of base pairs that an RNA strand can fold into.
pub fn nussinov(n: usize) -> u64 {
    let mut random = Random::new(11);
    let strand: Vec<usize> = (0..n).map(|_| random.below(4)).collect();
    let mut table = vec![0_u32; n * n];
    for i in (0..n).rev() {
        for j in i + 1..n {
            let mut best = table[i * n + j - 1].max(table[(i + 1) * n + j]);
            let pair = u32::from(i + 1 < j && strand[i] + strand[j] == 3);
            best = best.max(table[(i + 1) * n + j - 1] + pair);
            for k in i + 1..j {
                best = best.max(table[i * n + k] + table[(k + 1) * n + j]);
            }
            table[i * n + j] = best;
        }
    }
    sum_integers(table.iter().map(|&cell| cell.into()))
}

/// The length of the longest common subsequence of two strings, and the table's last row.
pub fn lcs(n: usize) -> u64 {
    let mut random = Random::new(13);
    let mut letters = || -> Vec<u8> { (0..n).map(|_| random.below(6) as u8).collect() };
    let (first, second) = (letters(), letters());
    let mut above = vec![0_u32; n + 1];
    let mut here = above.clone();
    for a in &first {
        for (j, b) in second.iter().enumerate() {
            here[j + 1] = if a == b { above[j] + 1 } else { here[j].max(above[j + 1]) };
        }
        std::mem::swap(&mut above, &mut here);
    }
    sum_integers(above.iter().map(|&cell| cell.into()))
}
