//! Clocks. State: the monotonic time.
//!
//! The monotonic clock counts the nanoseconds that the program has existed on hosts: after a move it continues from
//! its value at the freeze, so it never goes back and the transit does not pass on it (as suspended time does not on
//! Linux). The real-time clock is the host's. Under [`Source::Deterministic`] both are virtual: each reading advances
//! them by [`STEP`], and a sleep by its length.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dunlin_snapshot::HostSection;

use crate::codec::{CodecError, Reader, Writer};
use crate::config::Source;
use crate::errno::Errno;
use crate::error::Error;
use crate::memory::Memory;
use crate::preview1::{Break, Params};
use crate::sections::{Frozen, Sections, kind};
use crate::world::World;

/// What a reading of a virtual clock takes, in nanoseconds.
const STEP: u64 = 1_000;

/// The real time at which virtual clocks begin: 2020-01-01 00:00:00 UTC.
pub(crate) const VIRTUAL_EPOCH: u64 = 1_577_836_800 * 1_000_000_000;

/// The resolution of real clocks, in nanoseconds.
const RESOLUTION: u64 = 1;

/// A clock that a program can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    Realtime,
    Monotonic,
}

impl Clock {
    /// `EINVAL` for a number that is no clock; `cpu_time` for the clocks of processor time, which are not offered.
    pub(crate) fn from_id(id: u32, cpu_time: Errno) -> Result<Self, Errno> {
        match id {
            0 => Ok(Self::Realtime),
            1 => Ok(Self::Monotonic),
            2 | 3 => Err(cpu_time),
            _ => Err(Errno::Inval),
        }
    }
}

/// The clocks at a freeze.
struct ClocksV1 {
    is_virtual: bool,
    /// Nanoseconds.
    monotonic: u64,
}

impl Frozen for ClocksV1 {
    const KIND: u16 = kind::CLOCKS;
    const VERSION: u16 = 1;

    fn write(&self, writer: &mut Writer) {
        writer.flag(self.is_virtual);
        writer.u64(self.monotonic);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { is_virtual: reader.flag("kind of clock")?, monotonic: reader.u64()? })
    }
}

/// The clocks of one program.
#[derive(Debug)]
pub(crate) enum Clocks {
    /// Real ones: the monotonic clock showed `base` at `since`.
    System { base: u64, since: Instant },
    /// Virtual ones: the monotonic clock shows this.
    Virtual(u64),
}

impl Clocks {
    pub(crate) fn new(source: Source) -> Self {
        Self::at(source, 0)
    }

    fn at(source: Source, monotonic: u64) -> Self {
        match source {
            Source::System => Self::System { base: monotonic, since: Instant::now() },
            Source::Deterministic { .. } => Self::Virtual(monotonic),
        }
    }

    /// The monotonic time in nanoseconds. Does not advance a virtual clock.
    pub(crate) fn monotonic(&self) -> u64 {
        match self {
            Self::System { base, since } => base.saturating_add(nanoseconds(since.elapsed())),
            Self::Virtual(now) => *now,
        }
    }

    /// The real time in nanoseconds since 1970.
    pub(crate) fn realtime(&self) -> u64 {
        match self {
            Self::System { .. } => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanoseconds),
            Self::Virtual(now) => VIRTUAL_EPOCH.saturating_add(*now),
        }
    }

    pub(crate) fn is_virtual(&self) -> bool {
        matches!(self, Self::Virtual(_))
    }

    /// Advances virtual clocks to a monotonic time.
    pub(crate) fn advance_to(&mut self, time: u64) {
        if let Self::Virtual(now) = self {
            *now = time.max(*now);
        }
    }

    pub(crate) fn freeze(&self) -> HostSection {
        ClocksV1 { is_virtual: self.is_virtual(), monotonic: self.monotonic() }.section()
    }

    pub(crate) fn thaw(sections: &Sections<'_>, source: Source) -> Result<Self, Error> {
        let ClocksV1 { is_virtual, monotonic } = sections.required()?;
        let here = Self::at(source, monotonic);
        if here.is_virtual() != is_virtual {
            let snapshot = if is_virtual { Source::Deterministic { seed: 0 } } else { Source::System };
            return Err(Error::OtherSource { snapshot: snapshot.name(), here: source.name() });
        }
        Ok(here)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn clock_res_get(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    Clock::from_id(params.u32(0), Errno::Badf)?;
    let resolution = if world.clocks.is_virtual() { STEP } else { RESOLUTION };
    Ok(memory.write_u64(params.u32(1), resolution)?)
}

pub(crate) fn clock_time_get(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let clock = Clock::from_id(params.u32(0), Errno::Badf)?;
    memory.range(params.u32(2), 1, 8)?;
    world.clocks.advance_to(world.clocks.monotonic().saturating_add(STEP));
    let time = match clock {
        Clock::Realtime => world.clocks.realtime(),
        Clock::Monotonic => world.clocks.monotonic(),
    };
    Ok(memory.write_u64(params.u32(2), time)?)
}
