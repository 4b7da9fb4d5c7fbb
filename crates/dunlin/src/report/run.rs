//! What `run` and `restore` tell of a run.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::failure::{Exit, Failure, Result};
use crate::text;

/// A run, for programs.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) tier: &'static str,
    #[serde(flatten)]
    pub(crate) times: Times,
    /// Only if they are counted.
    pub(crate) safepoints_executed: Option<i64>,
    #[serde(flatten)]
    pub(crate) end: Ended,
}

/// How long the parts took.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(crate) struct Times {
    #[serde(rename = "instrument_ms", serialize_with = "ms")]
    pub(crate) instrument: Duration,
    #[serde(rename = "compile_ms", serialize_with = "ms")]
    pub(crate) compile: Duration,
    /// Opening and decoding a snapshot; it runs beside `compile`.
    #[serde(rename = "decode_ms", serialize_with = "ms")]
    pub(crate) decode: Duration,
    #[serde(rename = "thaw_ms", serialize_with = "ms")]
    pub(crate) thaw: Duration,
    /// Making the instance and, for a snapshot, filling it.
    #[serde(rename = "instantiate_ms", serialize_with = "ms")]
    pub(crate) instantiate: Duration,
    #[serde(rename = "run_ms", serialize_with = "ms")]
    pub(crate) run: Duration,
}

/// How it ended.
#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(crate) enum Ended {
    Exited {
        code: i32,
    },
    Trapped {
        message: String,
    },
    /// It has used up what it may have of this.
    Exhausted {
        limit: &'static str,
    },
    Stopped(Stopped),
}

/// A stop and its snapshot.
#[derive(Debug, Serialize)]
pub(crate) struct Stopped {
    pub(crate) by: &'static str,
    pub(crate) function: Option<String>,
    pub(crate) function_index: u32,
    pub(crate) offset: u32,
    pub(crate) safepoint: u32,
    pub(crate) inside_call: bool,
    pub(crate) frames: usize,
    pub(crate) memory_bytes: u64,
    /// From the request; a stop at a counted safepoint has none.
    #[serde(rename = "to_safepoint_ms", serialize_with = "maybe_ms")]
    pub(crate) to_safepoint: Option<Duration>,
    #[serde(rename = "capture_ms", serialize_with = "ms")]
    pub(crate) capture: Duration,
    #[serde(rename = "encode_ms", serialize_with = "ms")]
    pub(crate) encode: Duration,
    #[serde(rename = "write_ms", serialize_with = "ms")]
    pub(crate) write: Duration,
    pub(crate) snapshot: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) digest: String,
}

impl Report {
    pub(crate) fn json(&self) -> Result<String> {
        json(self)
    }
}

impl Stopped {
    /// The line for people.
    pub(crate) fn line(&self) -> String {
        let place = match &self.function {
            Some(name) => format!("{name} (function {})", self.function_index),
            None => format!("function {}", self.function_index),
        };
        let reached = match self.to_safepoint {
            Some(time) => format!("{} after {}", text::time(time), self.by),
            None => format!("by {}", self.by),
        };
        format!(
            "stopped {reached} in {place} at {:#x}, {} deep; captured in {}, written in {}: {}, {}, sha256:{}",
            self.offset,
            text::count(self.frames, "frame"),
            text::time(self.capture),
            text::time(self.encode + self.write),
            self.snapshot.display(),
            text::bytes(self.bytes),
            self.digest.get(..12).unwrap_or(&self.digest),
        )
    }
}

/// Pretty JSON with a line feed at its end.
pub(crate) fn json(value: &impl Serialize) -> Result<String> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(Failure::because(Exit::Software, "the report cannot be written as JSON"))?;
    text.push('\n');
    Ok(text)
}

/// For `serialize_with`: a duration in milliseconds.
pub(crate) fn ms<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(text::milliseconds(*time))
}

fn maybe_ms<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(text::milliseconds).serialize(serializer)
}
