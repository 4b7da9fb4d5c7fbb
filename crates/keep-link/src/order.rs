//! What a node tells a keep to do.

use core::fmt;

use dunlin_handover::codec::{DecodeError, Reader, Wire, Writer};
use dunlin_handover::converge::Options;
use dunlin_handover::{Key, LedgerReply, MigrationId, Nonce, wire_struct, wire_tags};

use crate::packet::messages;
use crate::spec::{Offered, OrderId, Role, Spec, WishId, put_text};

/// Longest name in bytes.
const MAX_NAME: usize = 256;
/// Longest private key or certificate in bytes.
const MAX_BLOB: usize = 8 * 1024;
/// Most certificates of a chain, and most roots.
const MAX_CERTIFICATES: usize = 64;
/// Longest text for people in bytes.
const MAX_TEXT: usize = 1024;
/// Longest evidence, and longest endorsements, in bytes.
const MAX_EVIDENCE: usize = 64 * 1024;

messages! {
    /// A message of a node to its keep.
    Order, "order" {
        /// The first: who the keep is.
        Identity(Identity) = 1,
        /// Run a service.
        Start(Start) = 16,
        /// Put the program's state on stable storage and into the ledger, and let it run on.
        Checkpoint(TakeCheckpoint) = 17,
        /// End the program, and then the keep.
        Stop(Stop) = 18,
        /// Say what runs here, for a client's nonce.
        Attest(Challenge) = 19,
        /// Give the service to another keep.
        MigrateOut(MigrateOut) = 32,
        /// Take a service from another keep.
        MigrateIn(MigrateIn) = 33,
        /// Give a migration up, if it still can be.
        Cancel(About) = 34,
        /// A new stream to the other keep of a migration whose link was lost after the switch.
        Reconnect(About) = 35,
        /// The ledger's answer.
        LedgerReply(LedgerReply) = 48,
        /// The program's wish to move is not met.
        WishRefused(WishRefused) = 49,
        /// A stream to the broker; it ends at once if there is no way to one.
        Broker(BrokerCall) = 50,
        /// What the machine's platform says for the keep.
        Proof(ProofReply) = 51,
        /// Say how things stand.
        Query(Call) = 64,
    }
}

impl Order {
    /// How many descriptors go with it.
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Start(start) => start.offered.roles().len(),
            Self::MigrateIn(migrate) => migrate.offered.roles().len(),
            Self::MigrateOut(_) | Self::Reconnect(_) | Self::Broker(_) => 1,
            Self::Identity(_)
            | Self::Checkpoint(_)
            | Self::Stop(_)
            | Self::Attest(_)
            | Self::Cancel(_)
            | Self::LedgerReply(_)
            | Self::WishRefused(_)
            | Self::Proof(_)
            | Self::Query(_) => 0,
        }
    }

    /// Its number, if it is one that is answered.
    pub fn id(&self) -> Option<OrderId> {
        match self {
            Self::Identity(identity) => Some(identity.order),
            Self::Start(start) => Some(start.order),
            Self::Query(call) => Some(call.order),
            Self::Checkpoint(take) => Some(take.order),
            Self::Stop(stop) => Some(stop.order),
            Self::Attest(challenge) => Some(challenge.order),
            Self::MigrateOut(migrate) => Some(migrate.order),
            Self::MigrateIn(migrate) => Some(migrate.order),
            Self::Cancel(about) | Self::Reconnect(about) => Some(about.order),
            Self::LedgerReply(_) | Self::WishRefused(_) | Self::Broker(_) | Self::Proof(_) => None,
        }
    }
}

/// An order that says nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub order: OrderId,
}

wire_struct!(Call, "order", { order });

/// Take a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakeCheckpoint {
    /// Its number.
    pub order: OrderId,
    /// With all that is in the private volume, so that it is good on another machine as well. Otherwise the volume here is
    /// part of it.
    pub whole: bool,
}

wire_struct!(TakeCheckpoint, "checkpoint", { order, whole });

/// A client asks what it talks to. Answered by `Attested`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    /// Its number.
    pub order: OrderId,
    /// The client's.
    pub nonce: Nonce,
}

wire_struct!(Challenge, "challenge", { order, nonce });

/// A keep's call for a stream to the broker, and the answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokerCall {
    /// The keep's number of it.
    pub call: u64,
}

wire_struct!(BrokerCall, "call for the broker", { call });

/// The answer to a keep's call for a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofReply {
    /// The keep's number of the call.
    pub call: u64,
    /// What the platform gave, or why it gave nothing, for people.
    pub given: Result<Proof, String>,
}

/// Evidence of the machine's platform, and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The evidence in its container, at most 64 KiB.
    pub evidence: Vec<u8>,
    /// Certificates and statements, at most 64 KiB.
    pub endorsements: Vec<u8>,
}

impl Wire for ProofReply {
    const WHAT: &'static str = "proof";

    fn write(&self, out: &mut Writer) {
        let Self { call, given } = self;
        out.put(call);
        out.put(&given.is_ok());
        match given {
            Ok(Proof { evidence, endorsements }) => {
                out.blob(evidence);
                out.blob(endorsements);
            }
            Err(text) => put_text(out, text, MAX_TEXT),
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (call, is_given) = (input.take()?, input.take()?);
        let given = if is_given {
            let evidence = input.blob("evidence", MAX_EVIDENCE)?;
            Ok(Proof { evidence, endorsements: input.blob("endorsements", MAX_EVIDENCE)? })
        } else {
            Err(input.text("reason", MAX_TEXT)?)
        };
        Ok(Self { call, given })
    }
}

/// What can speak for the machine on which a keep runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Witness {
    /// Nothing: the keep simulates a platform.
    #[default]
    Simulation,
    /// A TPM, asked through the node.
    Tpm,
    /// The SEV-SNP guest in which node and keeps run, asked through the node.
    Snp,
    /// The TDX guest in which node and keeps run, asked through the node.
    Tdx,
}

wire_tags!(Witness, "witness", { Simulation = 0, Tpm = 1, Snp = 2, Tdx = 3 });

/// Who the keep is and whom it believes. A keep inside a TEE takes from this what it cannot know itself (names,
/// certificates); its platform key comes from the TEE.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its number.
    pub order: OrderId,
    /// The version that is spoken from here on.
    pub version: u16,
    /// The ledger whose word counts.
    pub ledger: Key,
    /// What people call the node, at most 256 bytes.
    pub node: String,
    /// What people call its provider, at most 256 bytes.
    pub provider: String,
    /// The machine's private key (PKCS #8), on machines where that is a file; empty otherwise.
    pub platform: Vec<u8>,
    /// The certificate of the keep's instance key and those up to a root, as DER.
    pub certificates: Vec<Vec<u8>>,
    /// The roots of the providers that are believed, as DER.
    pub roots: Vec<Vec<u8>>,
    /// What speaks for the machine. Whoever judges the evidence finds out whether it is so.
    pub witness: Witness,
}

impl fmt::Debug for Identity {
    /// Without the private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { order, version, ledger, node, provider, platform: _, certificates, roots, witness } = self;
        f.debug_struct("Identity")
            .field("order", order)
            .field("version", version)
            .field("ledger", ledger)
            .field("node", node)
            .field("provider", provider)
            .field("certificates", &certificates.len())
            .field("roots", &roots.len())
            .field("witness", witness)
            .finish_non_exhaustive()
    }
}

impl Wire for Identity {
    const WHAT: &'static str = "identity";

    fn write(&self, out: &mut Writer) {
        let Self { order, version, ledger, node, provider, platform, certificates, roots, witness } = self;
        out.put(order);
        out.put(version);
        out.put(ledger);
        put_text(out, node, MAX_NAME);
        put_text(out, provider, MAX_NAME);
        out.blob(platform);
        for list in [certificates, roots] {
            out.put(&(list.len() as u32));
            list.iter().for_each(|certificate| out.blob(certificate));
        }
        out.put(witness);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            order: input.take()?,
            version: input.take()?,
            ledger: input.take()?,
            node: input.text("name of a node", MAX_NAME)?,
            provider: input.text("name of a provider", MAX_NAME)?,
            platform: input.blob("platform key", MAX_BLOB)?,
            certificates: blobs(input, "certificates")?,
            roots: blobs(input, "roots")?,
            witness: input.take()?,
        })
    }
}

fn blobs(input: &mut Reader<'_>, what: &'static str) -> Result<Vec<Vec<u8>>, DecodeError> {
    let mut list = Vec::new();
    for _ in 0..input.count(what, MAX_CERTIFICATES)? {
        list.push(input.blob(what, MAX_BLOB)?);
    }
    Ok(list)
}

/// Run a service. Answered by `Running` or `Failed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Its number.
    pub order: OrderId,
    /// The service.
    pub spec: Spec,
    /// From which state.
    pub origin: Origin,
    /// What the descriptors are: `Module` and `States` at least, and no `Peer`.
    pub offered: Offered,
}

impl Wire for Start {
    const WHAT: &'static str = "start";

    fn write(&self, out: &mut Writer) {
        let Self { order, spec, origin, offered } = self;
        out.put(order);
        out.put(spec);
        out.put(origin);
        out.put(offered);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = Self { order: input.take()?, spec: input.take()?, origin: input.take()?, offered: input.take()? };
        let (module, states) = (start.offered.has(&Role::Module), start.offered.has(&Role::States));
        if module && states && !start.offered.has(&Role::Peer) {
            return Ok(start);
        }
        Err(DecodeError::Invalid { what: Self::WHAT, why: "a module and a place for states come with it, and no peer" })
    }
}

/// From which state a service starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// For the first time: its record was created and nobody holds it.
    First,
    /// From the committed state, which must be among what `States` holds: after a stop or a crash.
    Again,
    /// The same, taken from another machine with the owner's leave, which the node adds to the request to the ledger.
    Recovered,
}

wire_tags!(Origin, "origin", { First = 1, Again = 2, Recovered = 3 });

/// End the program. Answered by `Ended`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// Its number.
    pub order: OrderId,
    /// How.
    pub how: StopHow,
}

wire_struct!(Stop, "stop", { order, how });

/// How a program is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopHow {
    /// With a checkpoint, so that it goes on from here when it starts again. Connections end.
    Suspend,
    /// At once. What came after the last checkpoint is lost.
    Kill,
}

wire_tags!(StopHow, "way to stop", { Suspend = 1, Kill = 2 });

/// Give the service to the keep at the other end of the stream that comes with this. Answered by `Left`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateOut {
    /// Its number.
    pub order: OrderId,
    /// The migration.
    pub migration: MigrationId,
    /// Limits and wishes.
    pub options: Options,
    /// Only ask whether it would work.
    pub dry_run: bool,
    /// The program's wish that this fulfils.
    pub wish: Option<WishId>,
}

wire_struct!(MigrateOut, "migrate-out", { order, migration, options, dry_run, wish });

/// Take a service from the keep at the other end of the stream. Answered by `Arrived`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateIn {
    /// Its number.
    pub order: OrderId,
    /// The migration.
    pub migration: MigrationId,
    /// The service that is expected; its arguments and environment come with the state.
    pub spec: Spec,
    /// What the descriptors are: `Peer` and `States` at least; without `Module`, the source sends it.
    pub offered: Offered,
}

impl Wire for MigrateIn {
    const WHAT: &'static str = "migrate-in";

    fn write(&self, out: &mut Writer) {
        let Self { order, migration, spec, offered } = self;
        out.put(order);
        out.put(migration);
        out.put(spec);
        out.put(offered);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (order, migration, spec) = (input.take()?, input.take()?, input.take()?);
        let offered: Offered = input.take()?;
        if offered.has(&Role::Peer) && offered.has(&Role::States) {
            return Ok(Self { order, migration, spec, offered });
        }
        Err(DecodeError::Invalid { what: Self::WHAT, why: "a peer and a place for states come with it" })
    }
}

/// An order about a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// Its number.
    pub order: OrderId,
    /// The migration.
    pub migration: MigrationId,
}

wire_struct!(About, "order about a migration", { order, migration });

/// Why the program does not move where it wished to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WishRefused {
    /// The wish.
    pub wish: WishId,
    /// Why, for people.
    pub text: String,
}

impl Wire for WishRefused {
    const WHAT: &'static str = "refusal of a wish";

    fn write(&self, out: &mut Writer) {
        let Self { wish, text } = self;
        out.put(wish);
        put_text(out, text, MAX_TEXT);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { wish: input.take()?, text: input.text(Self::WHAT, MAX_TEXT)? })
    }
}
