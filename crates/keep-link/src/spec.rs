//! What a keep is told about a service, and what it is given for it.

use core::fmt;

use dunlin_base::Digest;
use dunlin_handover::codec::{DecodeError, Reader, Wire, Writer};
use dunlin_handover::{ServiceId, wire_struct, wire_tags};

use crate::packet::MAX_DESCRIPTORS;

/// Longest name of a service or node, in bytes.
const MAX_NAME: usize = 256;
/// Longest signed policy, in bytes.
pub const MAX_POLICY: usize = 64 * 1024;
/// Longest public key, in bytes.
const MAX_KEY: usize = 128;
/// Longest argument, value of a variable or path, in bytes.
const MAX_TEXT: usize = 32 * 1024;
/// Most arguments, and most variables.
const MAX_LIST: usize = 1024;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl Wire for $name {
            const WHAT: &'static str = $what;

            fn write(&self, out: &mut Writer) {
                out.put(&self.0);
            }

            fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                input.take().map(Self)
            }
        }
    };
}

number!(
    /// An order of a node to one keep. They rise; the answers carry them.
    OrderId, "order id"
);
number!(
    /// A wish of a program to move, counted by its keep.
    WishId, "wish id"
);

/// A connection of a client, for its whole life and wherever its service runs. Random, drawn by the keep that accepted
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub [u8; 16]);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Wire for ConnectionId {
    const WHAT: &'static str = "connection id";

    fn write(&self, out: &mut Writer) {
        out.raw(&self.0);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.array(Self::WHAT).map(Self)
    }
}

/// A service as its node describes it. What of it matters for trust, the keep checks: the module by its digest, the
/// policy by the ledger's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Which service, in the ledger.
    pub service: ServiceId,
    /// What people call it, at most 256 bytes.
    pub name: String,
    /// Digest of the module.
    pub module: Digest,
    /// Digest of the policy under which it runs; the digest of no bytes where the owner gave none.
    pub policy: Digest,
    /// That policy, where the owner gave one.
    pub signed_policy: Option<SignedPolicy>,
    /// Arguments, the first one is the program's name. Only for a first start: afterwards they are state.
    pub args: Vec<String>,
    /// Environment variables, as `args`.
    pub env: Vec<Variable>,
    /// How to run it.
    pub tier: Tier,
    /// How much it may have.
    pub limits: Limits,
}

/// A policy as its owner signed it. What counts is that it has the digest in the ledger's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedPolicy {
    /// The signed object (COSE), at most 64 KiB.
    pub object: Vec<u8>,
    /// The key that signed it (P-256 point).
    pub signer: Vec<u8>,
}

impl Wire for SignedPolicy {
    const WHAT: &'static str = "signed policy";

    fn write(&self, out: &mut Writer) {
        out.blob(&self.object);
        out.blob(&self.signer);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { object: input.blob(Self::WHAT, MAX_POLICY)?, signer: input.blob(Self::WHAT, MAX_KEY)? })
    }
}

/// An environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl Wire for Variable {
    const WHAT: &'static str = "environment variable";

    fn write(&self, out: &mut Writer) {
        let Self { name, value } = self;
        out.blob(name.as_bytes());
        out.blob(value.as_bytes());
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { name: input.text(Self::WHAT, MAX_TEXT)?, value: input.text(Self::WHAT, MAX_TEXT)? })
    }
}

impl Wire for Spec {
    const WHAT: &'static str = "service";

    fn write(&self, out: &mut Writer) {
        let Self { service, name, module, policy, signed_policy, args, env, tier, limits } = self;
        out.put(service);
        out.blob(name.as_bytes());
        out.put(module);
        out.put(policy);
        out.put(signed_policy);
        out.put(&(args.len() as u32));
        args.iter().for_each(|arg| out.blob(arg.as_bytes()));
        out.list(env);
        out.put(tier);
        out.put(limits);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (service, name) = (input.take()?, input.text("name of a service", MAX_NAME)?);
        let (module, policy, signed_policy) = (input.take()?, input.take()?, input.take()?);
        let mut args = Vec::new();
        for _ in 0..input.count("arguments", MAX_LIST)? {
            args.push(input.text("argument", MAX_TEXT)?);
        }
        let env = input.list("environment", MAX_LIST)?;
        let (tier, limits) = (input.take()?, input.take()?);
        Ok(Self { service, name, module, policy, signed_policy, args, env, tier, limits })
    }
}

/// Which engine runs the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Tier {
    /// Native code.
    #[default]
    Cranelift,
    /// Wasmtime's portable interpreter.
    Pulley,
    /// An interpreter of another family.
    Wasmi,
}

wire_tags!(Tier, "tier", { Cranelift = 0, Pulley = 1, Wasmi = 2 });

/// How much a service may have. A keep refuses to start what needs more from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Bytes of each memory.
    pub memory_bytes: u64,
    /// Elements of each table.
    pub table_elements: u64,
    /// Bytes of native stack.
    pub stack_bytes: u64,
    /// Descriptors that the program may have open, connections among them.
    pub descriptors: u32,
    /// Percent of one processor; `None` for as much as there is.
    pub cpu_percent: Option<u8>,
}

wire_struct!(Limits, "limits", { memory_bytes, table_elements, stack_bytes, descriptors, cpu_percent });

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 4 << 30,
            table_elements: 10_000_000,
            stack_bytes: 32 << 20,
            descriptors: 1024,
            cpu_percent: None,
        }
    }
}

/// What a descriptor that comes with an order is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Role {
    /// The module's bytes: a regular file or memory file.
    Module,
    /// The program's standard input.
    Stdin,
    /// The program's standard output.
    Stdout,
    /// The program's standard error.
    Stderr,
    /// A bound, listening stream socket. Listeners are numbered in the order in which they come.
    Listener,
    /// A directory of the host that the program sees.
    Mount {
        /// Where it sees it.
        guest: String,
        /// Whether it may change anything in it.
        writable: bool,
    },
    /// The directory of the service's private volume.
    Volume {
        /// Where the program sees the volume.
        guest: String,
    },
    /// The directory in which the keep puts what must outlive it: sealed states of this service.
    States,
    /// A stream to the other keep of a migration.
    Peer,
}

impl Wire for Role {
    const WHAT: &'static str = "role of a descriptor";

    fn write(&self, out: &mut Writer) {
        match self {
            Self::Module => out.put(&1u8),
            Self::Stdin => out.put(&2u8),
            Self::Stdout => out.put(&3u8),
            Self::Stderr => out.put(&4u8),
            Self::Listener => out.put(&5u8),
            Self::Mount { guest, writable } => {
                out.put(&6u8);
                out.blob(guest.as_bytes());
                out.put(writable);
            }
            Self::Volume { guest } => {
                out.put(&7u8);
                out.blob(guest.as_bytes());
            }
            Self::States => out.put(&8u8),
            Self::Peer => out.put(&9u8),
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match input.take::<u8>()? {
            1 => Self::Module,
            2 => Self::Stdin,
            3 => Self::Stdout,
            4 => Self::Stderr,
            5 => Self::Listener,
            6 => Self::Mount { guest: input.text("path of a mount", MAX_TEXT)?, writable: input.take()? },
            7 => Self::Volume { guest: input.text("path of a volume", MAX_TEXT)? },
            8 => Self::States,
            9 => Self::Peer,
            value => return Err(DecodeError::Unknown { what: Self::WHAT, value: value.into() }),
        })
    }
}

/// The roles of the descriptors that come with an order, in their order. Everything but listeners and mounts comes
/// at most once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Offered(Vec<Role>);

impl Offered {
    /// Checks a list of roles.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] if one comes twice that must not, [`DecodeError::Read`] is not returned.
    pub fn new(roles: Vec<Role>) -> Result<Self, DecodeError> {
        let invalid = |why| DecodeError::Invalid { what: "offered descriptors", why };
        if roles.len() > MAX_DESCRIPTORS {
            return Err(invalid("at most 80 go with one order"));
        }
        let many = |role: &Role| matches!(role, Role::Listener | Role::Mount { .. });
        let kind = core::mem::discriminant::<Role>;
        for (index, role) in roles.iter().enumerate() {
            if !many(role) && roles.iter().take(index).any(|earlier| kind(earlier) == kind(role)) {
                return Err(invalid("only listeners and mounts come more than once"));
            }
        }
        Ok(Self(roles))
    }

    /// The roles.
    pub fn roles(&self) -> &[Role] {
        &self.0
    }

    /// Whether a descriptor of this kind is among them.
    pub fn has(&self, role: &Role) -> bool {
        self.0.iter().any(|other| core::mem::discriminant(other) == core::mem::discriminant(role))
    }

    /// Pairs each role with its descriptor.
    pub fn pair<T>(&self, descriptors: Vec<T>) -> Vec<(Role, T)> {
        self.0.iter().cloned().zip(descriptors).collect()
    }
}

impl Wire for Offered {
    const WHAT: &'static str = "offered descriptors";

    fn write(&self, out: &mut Writer) {
        out.list(&self.0);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::new(input.list(Self::WHAT, MAX_DESCRIPTORS)?)
    }
}

/// Reads and writes texts of a bounded length; what is too long is cut when written.
pub(crate) fn put_text(out: &mut Writer, text: &str, limit: usize) {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.blob(text.get(..end).unwrap_or_default().as_bytes());
}
