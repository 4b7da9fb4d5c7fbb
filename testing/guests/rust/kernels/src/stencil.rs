//! Stencils: each cell becomes a function of its neighbours, many times.

use crate::data::sum_floats;
use crate::matrix::Matrix;

pub fn jacobi_1d(n: usize) -> u64 {
    let mut a: Vec<f64> = (0..n).map(|i| (i as f64 + 2.0) / n as f64).collect();
    let mut b: Vec<f64> = (0..n).map(|i| (i as f64 + 3.0) / n as f64).collect();
    for _ in 0..n / 4 {
        third(&a, &mut b);
        third(&b, &mut a);
    }
    sum_floats(&a)
}

fn third(from: &[f64], to: &mut [f64]) {
    let inner = to.len() - 1;
    for (to, window) in to[1..inner].iter_mut().zip(from.windows(3)) {
        *to = 0.33333 * (window[0] + window[1] + window[2]);
    }
}

fn plane(n: usize) -> Matrix {
    Matrix::new(n, n, |i, j| (i as f64 * (j as f64 + 2.0) + 2.0) / n as f64)
}

pub fn jacobi_2d(n: usize) -> u64 {
    let (mut a, mut b) = (plane(n), plane(n));
    for _ in 0..n / 5 {
        fifth(&a, &mut b, n);
        fifth(&b, &mut a, n);
    }
    sum_floats(&a.cells)
}

fn fifth(from: &Matrix, to: &mut Matrix, n: usize) {
    for i in 1..n - 1 {
        let (above, here, below) = (from.row(i - 1), from.row(i), from.row(i + 1));
        let target = to.row_mut(i);
        for j in 1..n - 1 {
            target[j] = 0.2 * (here[j] + here[j - 1] + here[j + 1] + below[j] + above[j]);
        }
    }
}

/// In place, so that each cell waits for the one before it.
pub fn seidel_2d(n: usize) -> u64 {
    let mut a = plane(n).cells;
    for _ in 0..n / 5 {
        for i in 1..n - 1 {
            for j in 1..n - 1 {
                let at = i * n + j;
                let above = a[at - n - 1] + a[at - n] + a[at - n + 1];
                let here = a[at - 1] + a[at] + a[at + 1];
                let below = a[at + n - 1] + a[at + n] + a[at + n + 1];
                a[at] = (above + here + below) / 9.0;
            }
        }
    }
    sum_floats(&a)
}

pub fn heat_3d(n: usize) -> u64 {
    let cell = |at: usize| (at / (n * n) + at / n % n + (n - at % n)) as f64 * 10.0 / n as f64;
    let mut a: Vec<f64> = (0..n * n * n).map(cell).collect();
    let mut b = a.clone();
    for _ in 0..n / 2 {
        diffuse(&a, &mut b, n);
        diffuse(&b, &mut a, n);
    }
    sum_floats(&a)
}

fn diffuse(from: &[f64], to: &mut [f64], n: usize) {
    for i in 1..n - 1 {
        for j in 1..n - 1 {
            for k in 1..n - 1 {
                let at = (i * n + j) * n + k;
                let along = |step: usize| 0.125 * (from[at + step] - 2.0 * from[at] + from[at - step]);
                to[at] = along(n * n) + along(n) + along(1) + from[at];
            }
        }
    }
}

/// Two-dimensional electromagnetic waves on a staggered grid.
pub fn fdtd_2d(n: usize) -> u64 {
    let mut ex = Matrix::new(n, n, |i, j| (i * (j + 1)) as f64 / n as f64);
    let mut ey = Matrix::new(n, n, |i, j| (i * (j + 2)) as f64 / n as f64);
    let mut hz = Matrix::new(n, n, |i, j| (i * (j + 3)) as f64 / n as f64);
    for step in 0..n / 4 {
        ey.row_mut(0).fill(step as f64);
        for i in 1..n {
            let (above, here) = (hz.row(i - 1), hz.row(i));
            for ((ey, here), above) in ey.row_mut(i).iter_mut().zip(here).zip(above) {
                *ey -= 0.5 * (here - above);
            }
        }
        for i in 0..n {
            let here = hz.row(i);
            for (ex, pair) in ex.row_mut(i)[1..].iter_mut().zip(here.windows(2)) {
                *ex -= 0.5 * (pair[1] - pair[0]);
            }
        }
        for i in 0..n - 1 {
            let (ex, ey, below) = (ex.row(i), ey.row(i), ey.row(i + 1));
            let target = hz.row_mut(i);
            for j in 0..n - 1 {
                target[j] -= 0.7 * (ex[j + 1] - ex[j] + below[j] - ey[j]);
            }
        }
    }
    sum_floats(ex.cells.iter().chain(&ey.cells).chain(&hz.cells))
}
