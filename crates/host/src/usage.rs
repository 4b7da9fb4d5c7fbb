//! What a program has used up of what is limited over its whole life. State: processor time. Only there when it is
//! counted, since no two runs take the same.

use std::time::Duration;

use crate::codec::{CodecError, Reader, Writer};
use crate::sections::{Frozen, kind};

/// What has been used, at a freeze and live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct UsageV1 {
    /// Processor time in nanoseconds.
    cpu: u64,
}

impl Frozen for UsageV1 {
    const KIND: u16 = kind::USAGE;
    const VERSION: u16 = 1;

    fn write(&self, writer: &mut Writer) {
        let Self { cpu } = self;
        writer.u64(*cpu);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { cpu: reader.u64()? })
    }
}

impl UsageV1 {
    pub(crate) fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu)
    }

    pub(crate) fn add_cpu(&mut self, time: Duration) {
        self.cpu = self.cpu.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_ever() {
        let mut usage = UsageV1::default();
        usage.add_cpu(Duration::from_nanos(0x0102_0304));
        let section = usage.section();
        assert_eq!((section.kind, section.version, section.mandatory), (11, 1, true));
        assert_eq!(section.bytes, [4, 3, 2, 1, 0, 0, 0, 0]);
        assert_eq!(UsageV1::read(&mut Reader::new(&section.bytes)), Ok(usage));
        assert!(UsageV1::read(&mut Reader::new(&section.bytes[..7])).is_err());
    }
}
