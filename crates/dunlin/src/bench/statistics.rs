//! Minimum, median, percentiles, geometric means.

use serde::Serialize;

/// Several measurements of one thing, sorted.
#[derive(Debug, Clone, Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn add(&mut self, value: f64) {
        let at = self.0.partition_point(|other| *other < value);
        self.0.insert(at, value);
    }

    pub(super) fn extend(&mut self, other: &Self) {
        other.0.iter().for_each(|value| self.add(*value));
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    /// 0 if there is none.
    pub(super) fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or_default()
    }

    /// 0 if there is none.
    pub(super) fn median(&self) -> f64 {
        match (self.0.len(), self.0.len() / 2) {
            (0, _) => 0.0,
            (n, half) if n % 2 == 0 => (self.0[half - 1] + self.0[half]) / 2.0,
            (_, half) => self.0[half],
        }
    }

    /// The smallest value that `percent` of all do not exceed.
    fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    pub(super) fn spread(&self) -> Spread {
        Spread {
            samples: self.len(),
            p50: self.percentile(50),
            p99: self.percentile(99),
            max: self.0.last().copied().unwrap_or_default(),
        }
    }
}

/// How a time varies, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Spread {
    pub(super) samples: usize,
    #[serde(rename = "p50_ms")]
    pub(super) p50: f64,
    #[serde(rename = "p99_ms")]
    pub(super) p99: f64,
    #[serde(rename = "max_ms")]
    pub(super) max: f64,
}

/// Ratios of many things in one number, and the largest of them.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Summary {
    pub(super) geomean: f64,
    pub(super) worst: f64,
    pub(super) worst_of: String,
}

impl Summary {
    pub(super) fn of<'a>(ratios: impl Iterator<Item = (&'a str, f64)>) -> Self {
        let (mut logarithms, mut number) = (0.0, 0.0);
        let mut summary = Self { geomean: 0.0, worst: 0.0, worst_of: String::new() };
        for (name, ratio) in ratios {
            logarithms += ratio.ln();
            number += 1.0;
            if ratio > summary.worst {
                (summary.worst, summary.worst_of) = (ratio, name.to_owned());
            }
        }
        if number > 0.0 {
            summary.geomean = (logarithms / number).exp();
        }
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks() {
        let mut samples = Samples::default();
        assert_eq!((samples.min(), samples.median(), samples.spread().max), (0.0, 0.0, 0.0));
        for value in (1..=200).rev() {
            samples.add(f64::from(value));
        }
        assert_eq!((samples.min(), samples.median()), (1.0, 100.5));
        let spread = samples.spread();
        assert_eq!((spread.samples, spread.p50, spread.p99, spread.max), (200, 100.0, 198.0, 200.0));
    }

    #[test]
    fn means() {
        let summary = Summary::of([("a", 0.5), ("b", 2.0)].into_iter());
        assert!((summary.geomean - 1.0).abs() < 1e-12);
        assert_eq!((summary.worst, summary.worst_of.as_str()), (2.0, "b"));
    }
}
