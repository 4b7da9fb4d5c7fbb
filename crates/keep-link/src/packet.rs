//! A packet: one message with its header, and how many descriptors travel beside it.
//!
//! ```text
//!   offset  size
//!        0     2  protocol version
//!        2     1  kind
//!        3     1  number of descriptors
//!        4     n  body
//! ```

use dunlin_handover::codec::{DecodeError, Reader, Writer};

use crate::order::Order;
use crate::report::Report;

/// Largest packet in bytes, with room for the largest call to a ledger. A channel's socket takes it in one piece, since its
/// buffer is made for it.
pub const MAX_PACKET: usize = 288 * 1024;

/// Most descriptors beside one packet.
pub const MAX_DESCRIPTORS: usize = 80;

const HEADER: usize = 4;

/// The protocol versions that a side speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Versions {
    /// The oldest.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
}

impl Versions {
    /// What this program speaks. Node and keep come from one release, so there is one version.
    pub const SUPPORTED: Self = Self { oldest: 4, newest: 4 };

    /// The newest version that both speak.
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest && newest >= other.oldest).then_some(newest)
    }
}

/// The bytes of one message, ready to be sent with its descriptors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet(pub(crate) Vec<u8>);

/// Why bytes are not a packet. The link must be given up: the other side is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PacketError {
    /// Too short or too long.
    #[error("a packet of {length} bytes is not between {HEADER} and {MAX_PACKET} bytes long")]
    Length {
        /// What came or was to be sent.
        length: usize,
    },
    /// A version that was not agreed on.
    #[error("the packet has protocol version {found}, agreed was {agreed}: node and keep must come from one release")]
    Version {
        /// What came.
        found: u16,
        /// What was negotiated.
        agreed: u16,
    },
    /// The header, the message and what came beside it do not agree.
    #[error("the message {message} goes with {wanted} descriptors, its header says {claimed} and {given} came")]
    Descriptors {
        /// The message.
        message: &'static str,
        /// As many as belong to it.
        wanted: usize,
        /// As the header says.
        claimed: usize,
        /// As many as came.
        given: usize,
    },
    /// In one piece and nonsense.
    #[error("the packet of kind {kind} cannot be decoded")]
    Decode {
        /// Its kind.
        kind: u8,
        /// What is wrong.
        #[source]
        source: DecodeError,
    },
}

impl Packet {
    /// An order.
    ///
    /// # Errors
    /// [`PacketError::Length`] if it is larger than [`MAX_PACKET`], [`PacketError::Descriptors`] if it goes with more
    /// than [`MAX_DESCRIPTORS`].
    pub fn order(version: u16, order: &Order) -> Result<Self, PacketError> {
        Self::new(version, order.kind(), order.name(), order.descriptors(), |out| order.write_body(out))
    }

    /// A report.
    ///
    /// # Errors
    /// As [`Packet::order`].
    pub fn report(version: u16, report: &Report) -> Result<Self, PacketError> {
        Self::new(version, report.kind(), report.name(), report.descriptors(), |out| report.write_body(out))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads an order beside which `given` descriptors came. `agreed` is the version of the link.
    ///
    /// # Errors
    /// [`PacketError`].
    pub fn read_order(bytes: &[u8], given: usize, agreed: u16) -> Result<Order, PacketError> {
        let (kind, claimed, input) = header(bytes, Some(agreed))?;
        let order = body(kind, input, Order::read_body)?;
        check(order.name(), order.descriptors(), claimed, given).map(|()| order)
    }

    /// Reads a report beside which `given` descriptors came. Until a version is agreed on, `agreed` is `None` and any
    /// is taken: the first report is what a version is chosen from.
    ///
    /// # Errors
    /// [`PacketError`].
    pub fn read_report(bytes: &[u8], given: usize, agreed: Option<u16>) -> Result<Report, PacketError> {
        let (kind, claimed, input) = header(bytes, agreed)?;
        let report = body(kind, input, Report::read_body)?;
        check(report.name(), report.descriptors(), claimed, given).map(|()| report)
    }

    fn new(
        version: u16,
        kind: u8,
        message: &'static str,
        descriptors: usize,
        write: impl FnOnce(&mut Writer),
    ) -> Result<Self, PacketError> {
        let claimed = match u8::try_from(descriptors) {
            Ok(claimed) if descriptors <= MAX_DESCRIPTORS => claimed,
            _ => {
                let wanted = descriptors;
                return Err(PacketError::Descriptors { message, wanted, claimed: MAX_DESCRIPTORS, given: wanted });
            }
        };
        let mut out = Writer::default();
        out.put(&version);
        out.put(&kind);
        out.put(&claimed);
        write(&mut out);
        let bytes = out.finish();
        if bytes.len() > MAX_PACKET { Err(PacketError::Length { length: bytes.len() }) } else { Ok(Self(bytes)) }
    }
}

fn header(bytes: &[u8], agreed: Option<u16>) -> Result<(u8, usize, Reader<'_>), PacketError> {
    if !(HEADER..=MAX_PACKET).contains(&bytes.len()) {
        return Err(PacketError::Length { length: bytes.len() });
    }
    let mut input = Reader::new(bytes);
    let decode = |source| PacketError::Decode { kind: 0, source };
    let version: u16 = input.take().map_err(decode)?;
    let kind: u8 = input.take().map_err(decode)?;
    let claimed: u8 = input.take().map_err(decode)?;
    match agreed {
        Some(agreed) if agreed != version => Err(PacketError::Version { found: version, agreed }),
        _ => Ok((kind, claimed.into(), input)),
    }
}

fn body<T>(
    kind: u8,
    mut input: Reader<'_>,
    read: impl FnOnce(u8, &mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<T, PacketError> {
    let decode = |source| PacketError::Decode { kind, source };
    let message = read(kind, &mut input).map_err(decode)?;
    input.finish("packet").map(|()| message).map_err(decode)
}

fn check(message: &'static str, wanted: usize, claimed: usize, given: usize) -> Result<(), PacketError> {
    if wanted == claimed && claimed == given {
        Ok(())
    } else {
        Err(PacketError::Descriptors { message, wanted, claimed, given })
    }
}

/// Makes an enum of messages, each with its number and body.
macro_rules! messages {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$of:meta])* $variant:ident($body:ty) = $kind:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$of])* $variant($body),)*
        }

        impl $name {
            /// Its number.
            pub fn kind(&self) -> u8 {
                match self { $(Self::$variant(_) => $kind,)* }
            }

            /// Its name, for messages.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => stringify!($variant),)* }
            }

            pub(crate) fn write_body(&self, out: &mut dunlin_handover::codec::Writer) {
                match self { $(Self::$variant(body) => out.put(body),)* }
            }

            pub(crate) fn read_body(
                kind: u8,
                input: &mut dunlin_handover::codec::Reader<'_>,
            ) -> Result<Self, dunlin_handover::codec::DecodeError> {
                Ok(match kind {
                    $($kind => Self::$variant(input.take()?),)*
                    value => {
                        let value = value.into();
                        return Err(dunlin_handover::codec::DecodeError::Unknown { what: $what, value });
                    }
                })
            }
        }
    };
}
pub(crate) use messages;
