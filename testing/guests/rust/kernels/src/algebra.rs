//! Dense linear algebra.

use crate::data::sum_floats;
use crate::matrix::Matrix;

fn ramp(n: usize, a: usize, b: usize) -> Matrix {
    Matrix::new(n, n, |i, j| ((i * a + j * b + 1) % n) as f64 / n as f64)
}

/// `c += alpha * a * b`
fn multiply_add(c: &mut Matrix, alpha: f64, a: &Matrix, b: &Matrix, n: usize) {
    for i in 0..n {
        let target = c.row_mut(i);
        for (k, factor) in a.row(i).iter().enumerate() {
            let factor = alpha * factor;
            for (c, b) in target.iter_mut().zip(b.row(k)) {
                *c += factor * b;
            }
        }
    }
}

fn scale(matrix: &mut Matrix, factor: f64) {
    matrix.cells.iter_mut().for_each(|cell| *cell *= factor);
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b)
}

/// `c = beta * c + alpha * a * b`
pub fn gemm(n: usize) -> u64 {
    let (a, b, mut c) = (ramp(n, 1, 2), ramp(n, 3, 1), ramp(n, 1, 1));
    scale(&mut c, 1.2);
    multiply_add(&mut c, 1.5, &a, &b, n);
    sum_floats(&c.cells)
}

/// `d = beta * d + alpha * a * b * c`
pub fn two_mm(n: usize) -> u64 {
    let (a, b, c, mut d) = (ramp(n, 1, 2), ramp(n, 3, 1), ramp(n, 2, 5), ramp(n, 1, 1));
    let mut product = Matrix::zero(n, n);
    multiply_add(&mut product, 1.5, &a, &b, n);
    scale(&mut d, 1.2);
    multiply_add(&mut d, 1.0, &product, &c, n);
    sum_floats(&d.cells)
}

/// `y = aᵀ * (a * x)`
pub fn atax(n: usize) -> u64 {
    let a = ramp(n, 1, 1);
    let x: Vec<f64> = (0..n).map(|i| 1.0 + i as f64 / n as f64).collect();
    let mut y = vec![0.0; n];
    for i in 0..n {
        let product = dot(a.row(i), &x);
        for (y, a) in y.iter_mut().zip(a.row(i)) {
            *y += a * product;
        }
    }
    sum_floats(&y)
}

/// `x1 += a * y1` and `x2 += aᵀ * y2`
pub fn mvt(n: usize) -> u64 {
    let a = ramp(n, 1, 3);
    let vector = |shift: usize| -> Vec<f64> { (0..n).map(|i| ((i + shift) % n) as f64 / n as f64).collect() };
    let (mut x1, mut x2, y1, y2) = (vector(0), vector(1), vector(3), vector(4));
    for (i, x) in x1.iter_mut().enumerate() {
        *x += dot(a.row(i), &y1);
    }
    for (j, y) in y2.iter().enumerate() {
        for (x, a) in x2.iter_mut().zip(a.row(j)) {
            *x += a * y;
        }
    }
    sum_floats(x1.iter().chain(&x2))
}

/// Solves `l * x = b` for a lower triangular `l`.
pub fn trisolv(n: usize) -> u64 {
    let l = Matrix::new(n, n, |i, j| if j <= i { (i + n - j + 1) as f64 * 2.0 / n as f64 } else { 0.0 });
    let mut x = vec![0.0; n];
    for i in 0..n {
        let row = l.row(i);
        x[i] = (-999.0 - dot(&row[..i], &x[..i])) / row[i];
    }
    sum_floats(&x)
}

/// A symmetric matrix whose diagonal outweighs its rows: positive definite.
fn definite(n: usize) -> Matrix {
    Matrix::new(n, n, |i, j| if i == j { n as f64 } else { ((i + j) % 7) as f64 / 7.0 })
}

/// Factors a matrix into a lower and an upper triangle, in place.
pub fn lu(n: usize) -> u64 {
    let mut a = definite(n);
    for k in 0..n {
        for i in k + 1..n {
            let (pivot, row) = a.rows_at(k, i);
            row[k] /= pivot[k];
            let factor = row[k];
            for (cell, pivot) in row[k + 1..].iter_mut().zip(&pivot[k + 1..]) {
                *cell -= factor * pivot;
            }
        }
    }
    sum_floats(&a.cells)
}

/// Factors a positive definite matrix into `l * lᵀ`, in place.
pub fn cholesky(n: usize) -> u64 {
    let mut a = definite(n);
    for i in 0..n {
        for j in 0..i {
            let (other, row) = a.rows_at(j, i);
            row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
        }
        let row = a.row_mut(i);
        row[i] = (row[i] - dot(&row[..i], &row[..i])).sqrt();
        row[i + 1..].fill(0.0);
    }
    sum_floats(&a.cells)
}
