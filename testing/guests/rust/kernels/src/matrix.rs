//! A dense matrix of doubles, by rows.

pub struct Matrix {
    columns: usize,
    pub cells: Vec<f64>,
}

impl Matrix {
    pub fn zero(rows: usize, columns: usize) -> Self {
        Self { columns, cells: vec![0.0; rows * columns] }
    }

    pub fn new(rows: usize, columns: usize, cell: impl Fn(usize, usize) -> f64) -> Self {
        let mut matrix = Self::zero(rows, columns);
        for (i, row) in matrix.cells.chunks_exact_mut(columns).enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                *value = cell(i, j);
            }
        }
        matrix
    }

    pub fn row(&self, i: usize) -> &[f64] {
        &self.cells[i * self.columns..(i + 1) * self.columns]
    }

    pub fn row_mut(&mut self, i: usize) -> &mut [f64] {
        &mut self.cells[i * self.columns..(i + 1) * self.columns]
    }

    /// Row `i` for reading and row `j` for writing; `i < j`.
    pub fn rows_at(&mut self, i: usize, j: usize) -> (&[f64], &mut [f64]) {
        let (low, high) = self.cells.split_at_mut(j * self.columns);
        (&low[i * self.columns..(i + 1) * self.columns], &mut high[..self.columns])
    }
}
