//! How two snapshots differ.

use std::path::Path;

use dunlin_snapshot::{Difference, Envelope, Limits, compare};
use serde::Serialize;

use super::snapshot::{Opened, host_kind};
use crate::failure::{Exit, Failure, Result};

/// The differences of two snapshots.
#[derive(Debug, Serialize)]
pub(crate) struct DifferenceReport {
    a: String,
    b: String,
    equal: bool,
    /// Whether both are of one module: if not, differences of their states mean little.
    same_module: bool,
    differences: Vec<Item>,
}

#[derive(Debug, Serialize)]
struct Item {
    what: String,
    /// One line for each part.
    details: Vec<String>,
}

impl DifferenceReport {
    /// Compares. Only what is restored counts: not the module's presence, nor who took the snapshot.
    pub(crate) fn of(a: (&Path, &[u8]), b: (&Path, &[u8]), given: Option<&[u8]>) -> Result<Self> {
        let (left, left_module) = open(a, given)?;
        let (right, right_module) = open(b, given)?;
        let same_module = left_module == right_module;
        let mut differences = Vec::new();
        if !same_module {
            let details = vec![format!("{left_module}, {right_module}")];
            differences.push(Item { what: "module".to_owned(), details });
        }
        let found = compare(&left.snapshot.state, &right.snapshot.state);
        differences.extend(found.iter().map(|difference| item(difference, &left, &right)));
        let name = |path: &Path| path.display().to_string();
        Ok(Self { a: name(a.0), b: name(b.0), equal: differences.is_empty(), same_module, differences })
    }

    pub(crate) fn equal(&self) -> bool {
        self.equal
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        if self.equal {
            return format!("{} and {} hold the same state\n", self.a, self.b);
        }
        let mut out = format!("a: {}\nb: {}\n", self.a, self.b);
        for Item { what, details } in &self.differences {
            out.push_str(&format!("{what}\n"));
            details.iter().for_each(|detail| out.push_str(&format!("  {detail}\n")));
        }
        out
    }
}

fn open((path, bytes): (&Path, &[u8]), given: Option<&[u8]>) -> Result<(Opened, dunlin_base::Digest)> {
    let refused = format!("{} is not a valid snapshot", path.display());
    let envelope = Envelope::open(bytes, &Limits::default()).map_err(Failure::because(Exit::Data, refused))?;
    Ok((Opened::new(path, &envelope, given)?, envelope.header().module))
}

fn item(difference: &Difference, a: &Opened, b: &Opened) -> Item {
    let frame = |opened: &Opened, frame: usize| {
        opened.snapshot.state.frames.get(frame).map_or_else(String::new, |frame| opened.place(frame))
    };
    let (what, details) = match difference {
        Difference::Place { frame: number, .. } => {
            (format!("frame #{number}"), vec![format!("a: {}", frame(a, *number)), format!("b: {}", frame(b, *number))])
        }
        Difference::FrameValues { frame: number, values } => {
            let one = |opened: &Opened, value: usize| {
                let frame = opened.snapshot.state.frames.get(*number)?;
                Some((opened.slot(frame, value), opened.value(frame.values.get(value)?)))
            };
            let lines = values.iter().filter_map(|value| {
                let ((slot, left), (_, right)) = (one(a, *value)?, one(b, *value)?);
                Some(format!("{slot}: {left}, {right}"))
            });
            (format!("frame #{number}, {}", frame(a, *number)), lines.collect())
        }
        Difference::Global { global, a: left, b: right } => {
            let show = |opened: &Opened, value: &Option<_>| {
                value.as_ref().map_or_else(|| "none".to_owned(), |value| opened.value(value))
            };
            (format!("{}: {}, {}", a.global(*global), show(a, left), show(b, right)), Vec::new())
        }
        Difference::Host { kind } => {
            (host_kind(*kind).map_or_else(|| difference.to_string(), |name| format!("host: {name}")), Vec::new())
        }
        other => (other.to_string(), Vec::new()),
    };
    Item { what, details }
}
