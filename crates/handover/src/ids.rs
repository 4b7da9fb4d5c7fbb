//! Names of the parties and things of the protocol, and time as an argument.

use core::fmt;
use core::ops::Add;
use core::str::FromStr;
use core::time::Duration;

use dunlin_base::{Digest, unhex};

use crate::codec::{DecodeError, Reader, Wire, Writer};

/// A text that is not the hexadecimal form of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a {what} is {digits} hexadecimal digits")]
pub struct ParseIdError {
    what: &'static str,
    digits: usize,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $size:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $size]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}(", stringify!($name))?;
                self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("..)")
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                unhex(text).map(Self).ok_or(ParseIdError { what: $what, digits: 2 * $size })
            }
        }

        impl Wire for $name {
            const WHAT: &'static str = $what;

            fn write(&self, out: &mut Writer) {
                out.raw(&self.0);
            }

            fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                input.array($what).map(Self)
            }
        }
    };
}

id!(
    /// A service, for its whole life and wherever it runs.
    ServiceId, 16, "service id"
);
id!(
    /// One attempt to move a service.
    MigrationId, 16, "migration id"
);
id!(
    /// One ledger operation; sending it again has no second effect.
    OperationId, 16, "operation id"
);
id!(
    /// The thumbprint (SHA-256) of a public signing key: a keep instance, an owner, a ledger.
    Key, 32, "key"
);
id!(
    /// A machine, as the thumbprint of the signing key that is sealed to it.
    PlatformId, 32, "platform id"
);
id!(
    /// Random bytes that make an answer fresh.
    Nonce, 32, "nonce"
);

impl PlatformId {
    /// The key whose signature proves that a request comes from this machine.
    pub const fn key(self) -> Key {
        Key(self.0)
    }
}

/// A point in time: microseconds since an arbitrary start that is the same for all calls to one state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// The time passed since `earlier`; zero when the clock was set back.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// Random bytes given by the caller once, stretched into as many nonces and operation ids as a state machine needs.
///
/// Whoever does not know the seed cannot guess the next value.
#[derive(Clone)]
pub struct Entropy {
    seed: [u8; 32],
    drawn: u64,
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entropy").field("drawn", &self.drawn).finish_non_exhaustive()
    }
}

impl Entropy {
    /// Starts from 32 random bytes, which must never be used for a second state machine.
    pub const fn new(seed: [u8; 32]) -> Self {
        Self { seed, drawn: 0 }
    }

    /// A nonce that was never drawn before.
    pub fn nonce(&mut self) -> Nonce {
        let mut bytes = self.seed.to_vec();
        bytes.extend_from_slice(&self.drawn.to_le_bytes());
        self.drawn += 1;
        Nonce(Digest::of(&bytes).0)
    }

    /// An operation id that was never drawn before.
    pub fn operation(&mut self) -> OperationId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.nonce().0[..16]);
        OperationId(id)
    }
}
