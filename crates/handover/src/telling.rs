//! The encodings of what processes of one machine tell each other about a migration: the wishes of whoever asked for
//! it, and its statistics. They are no part of the migration protocol.

use core::time::Duration;

use crate::codec::{DecodeError, Reader, Wire, Writer, wire_struct, wire_tags};
use crate::converge::{Options, TimeoutAction};
use crate::statistics::{Downtime, Ram, Statistics, Status};

/// Longest text in statistics, in bytes; a longer one is cut.
const MAX_TEXT: usize = 1024;
/// Most blocked reasons; more are left out.
const MAX_REASONS: usize = 64;

/// In microseconds.
impl Wire for Duration {
    const WHAT: &'static str = "duration";

    fn write(&self, out: &mut Writer) {
        out.put(&u64::try_from(self.as_micros()).unwrap_or(u64::MAX));
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.take().map(Self::from_micros)
    }
}

wire_tags!(TimeoutAction, "timeout action", { Abort = 0, Stop = 1, Postcopy = 2 });

wire_struct!(Options, "migration options", {
    mode,
    max_downtime,
    bandwidth_limit,
    max_rounds,
    timeout,
    timeout_action,
    auto_converge,
    throttle_initial,
    throttle_increment,
    throttle_max,
    switchover_cost,
});

wire_tags!(Status, "migration status", {
    None = 0, Setup = 1, Active = 2, PreSwitchover = 3, Device = 4, PostcopyActive = 5, PostcopyPaused = 6,
    PostcopyRecover = 7, Completed = 8, Failed = 9, Cancelling = 10, Cancelled = 11,
});

wire_struct!(Downtime, "downtime", { time_to_safepoint, capture, staged, commit, activate, restore });

wire_struct!(Ram, "memory statistics", {
    transferred,
    remaining,
    total,
    duplicate,
    normal,
    normal_bytes,
    dirty_pages_rate,
    mbps,
    dirty_sync_count,
    page_size,
    pages_per_second,
    precopy_bytes,
    downtime_bytes,
    postcopy_bytes,
    postcopy_requests,
    postcopy_blocktime,
});

impl Wire for Statistics {
    const WHAT: &'static str = "migration statistics";

    fn write(&self, out: &mut Writer) {
        let Self {
            status,
            total_time,
            setup_time,
            downtime,
            expected_downtime,
            cpu_throttle_percentage,
            blocked_reasons,
            error_desc,
            ram,
        } = self;
        out.put(status);
        out.put(total_time);
        out.put(setup_time);
        out.put(downtime);
        out.put(expected_downtime);
        out.put(cpu_throttle_percentage);
        let reasons = blocked_reasons.get(..MAX_REASONS).unwrap_or(blocked_reasons);
        out.put(&(reasons.len() as u32));
        reasons.iter().for_each(|reason| out.blob(cut(reason).as_bytes()));
        out.put(&error_desc.is_some());
        if let Some(text) = error_desc {
            out.blob(cut(text).as_bytes());
        }
        out.put(ram);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (status, total_time, setup_time) = (input.take()?, input.take()?, input.take()?);
        let (downtime, expected_downtime, cpu_throttle_percentage) = (input.take()?, input.take()?, input.take()?);
        let count = input.count("blocked reasons", MAX_REASONS)?;
        let mut blocked_reasons = Vec::new();
        for _ in 0..count {
            blocked_reasons.push(input.text("blocked reason", MAX_TEXT)?);
        }
        let error_desc = if input.take()? { Some(input.text("description of the error", MAX_TEXT)?) } else { None };
        Ok(Self {
            status,
            total_time,
            setup_time,
            downtime,
            expected_downtime,
            cpu_throttle_percentage,
            blocked_reasons,
            error_desc,
            ram: input.take()?,
        })
    }
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn same<T: Wire + PartialEq + core::fmt::Debug>(value: &T) {
        assert_eq!(T::from_bytes(&value.to_bytes()).as_ref(), Ok(value));
    }

    #[test]
    fn options_and_statistics_come_back() {
        same(&Options { bandwidth_limit: Some(5), timeout: Some(Duration::from_secs(3)), ..Options::default() });
        let mut statistics = Statistics { error_desc: Some("why".to_owned()), ..Statistics::default() };
        statistics.blocked_reasons = vec!["policy: no".to_owned()];
        statistics.downtime.commit = Some(Duration::from_micros(9));
        same(&statistics);
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let statistics = Statistics { error_desc: Some("é".repeat(MAX_TEXT)), ..Statistics::default() };
        let read = Statistics::from_bytes(&statistics.to_bytes()).unwrap();
        assert_eq!(read.error_desc, Some("é".repeat(MAX_TEXT / 2)));
    }
}
