//! The interface `dunlin:agent/mobility`: a program asks where it is, and moves itself. `docs/agents.md` of the repository
//! describes it for who writes programs.
//!
//! `migrate` blocks until the program is elsewhere, or somebody says why not. The stop that a move needs ends the call, as
//! it ends every call that blocks; issued again at the destination, it returns. State: that the program has left because it
//! wished to. Only there when it did.
//!
//! `migrate-weakly` takes less along: a new instance of the program begins in its export `arrive` at the destination, and
//! `luggage` gives it the bytes that the old one packed. State: these bytes, from then on.

mod wish;

use dunlin_base::ValueType::I32;
use rustix::event::PollFlags;

use crate::codec::{CodecError, Reader, Writer};
use crate::errno::Errno;
use crate::interface::{Function, Interface};
use crate::memory::Memory;
use crate::preview1::{Break, Params};
use crate::sections::{Frozen, kind};
use crate::world::World;

pub use wish::{Mobility, Wish};

/// The module from which programs import it.
pub const MODULE: &str = "dunlin:agent/mobility";

/// Longest name of a destination, in bytes.
const MAX_DESTINATION: u32 = 256;
/// The most that a weak move takes along, in bytes.
const MAX_LUGGAGE: u32 = 1 << 20;

/// The wish of a program at a freeze: it has one, and this is the move that fulfils it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeftV1;

impl Frozen for LeftV1 {
    const KIND: u16 = kind::MOBILITY;
    const VERSION: u16 = 1;

    fn write(&self, writer: &mut Writer) {
        writer.flag(true);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        if reader.flag("departure")? { Ok(Self) } else { Err(reader.invalid("departure")) }
    }
}

/// What an earlier instance of the program packed for this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LuggageV1(pub(crate) Vec<u8>);

impl Frozen for LuggageV1 {
    const KIND: u16 = kind::LUGGAGE;
    const VERSION: u16 = 1;

    fn write(&self, writer: &mut Writer) {
        writer.bytes(&self.0);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let bytes = reader.bytes()?;
        if bytes.len() > MAX_LUGGAGE as usize {
            return Err(reader.invalid("luggage"));
        }
        Ok(Self(bytes.to_vec()))
    }
}

/// What a program wishes.
#[derive(Debug, Default)]
pub(crate) enum Wishing {
    /// Nothing.
    #[default]
    No,
    /// To be elsewhere; with luggage, that a new instance is.
    Waits(Wish, Option<LuggageV1>),
    /// It is where it wished to be, and its call has not returned yet.
    Arrived,
}

impl Wishing {
    pub(crate) fn thaw(left: Option<LeftV1>) -> Self {
        left.map_or(Self::No, |LeftV1| Self::Arrived)
    }

    /// A wish that no move fulfils at this moment is not state: the call is issued again, and wishes again.
    pub(crate) fn freeze(&self) -> Option<LeftV1> {
        match self {
            Self::No | Self::Waits(_, Some(_)) => None,
            Self::Waits(wish, None) => wish.is_leaving().then_some(LeftV1),
            Self::Arrived => Some(LeftV1),
        }
    }

    /// What a weak move that goes on now takes along.
    pub(crate) fn luggage(&self) -> Option<&LuggageV1> {
        match self {
            Self::Waits(wish, luggage) => luggage.as_ref().filter(|_| wish.is_leaving()),
            _ => None,
        }
    }
}

/// Its functions.
pub(crate) static INTERFACE: Interface = Interface {
    module: MODULE,
    first: 12 << 16,
    functions: &[
        Function { name: "migrate", params: &[I32; 2], run: migrate },
        Function { name: "where-am-i", params: &[I32; 3], run: where_am_i },
        Function { name: "migrate-weakly", params: &[I32; 4], run: migrate_weakly },
        Function { name: "luggage", params: &[I32; 3], run: luggage },
    ],
};

/// `(destination: pointer, length) -> errno`: returns 0 there, `EHOSTUNREACH` here if the move is refused or fails, and
/// `ENOTSUP` where nothing moves.
fn migrate(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let destination = destination(memory, params)?;
    if matches!(world.wishing, Wishing::Arrived) {
        world.wishing = Wishing::No;
        return Ok(());
    }
    wish(world, &destination, || Ok(None))
}

/// `(destination: pointer, length, data: pointer, length) -> errno`: does not return if a new instance goes on elsewhere;
/// errors as `migrate`, and `E2BIG` for more than a mebibyte.
fn migrate_weakly(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let destination = destination(memory, params)?;
    let (pointer, length) = (params.u32(2), params.u32(3));
    if length > MAX_LUGGAGE {
        return Err(Errno::TooBig.into());
    }
    let packed = memory.range(pointer, length, 1)?;
    wish(world, &destination, || Ok(Some(LuggageV1(memory.at(&packed).to_vec()))))
}

/// Where a program wishes to be: its first two parameters.
fn destination(memory: &Memory<'_>, params: Params<'_>) -> Result<String, Break> {
    let (pointer, length) = (params.u32(0), params.u32(1));
    if length == 0 || length > MAX_DESTINATION {
        return Err(Errno::Inval.into());
    }
    Ok(memory.text(pointer, length)?.to_owned())
}

/// Wishes, or goes on wishing in a call that was issued again, until somebody refuses. A wish that is met ends the call.
fn wish(
    world: &mut World,
    destination: &str,
    pack: impl FnOnce() -> Result<Option<LuggageV1>, Break>,
) -> Result<(), Break> {
    let mobility = world.mobility.as_ref().ok_or(Errno::Notsup)?;
    if matches!(world.wishing, Wishing::No) {
        let luggage = pack()?;
        world.wishing = Wishing::Waits(mobility.wish(destination, luggage.is_some())?, luggage);
    }
    let Wishing::Waits(wish, _) = &world.wishing else { return Err(Errno::Inval.into()) };
    if wish.refusal().is_none() {
        world.waker.wait_for(wish.event(), PollFlags::IN, false)?;
    }
    world.wishing = Wishing::No;
    Err(Errno::Hostunreach.into())
}

/// `(buffer: pointer, length, written: pointer) -> errno`: what the instance before this one packed, as far as there is
/// room; `written` gets the whole length. `ENOENT` for an instance that did not arrive by a weak move.
fn luggage(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let (pointer, length, written) = (params.u32(0), params.u32(1), params.u32(2));
    memory.range(written, 1, 4)?;
    let LuggageV1(packed) = world.luggage.as_ref().ok_or(Errno::Noent)?;
    memory.write(pointer, packed.get(..length as usize).unwrap_or(packed))?;
    Ok(memory.write_u32(written, packed.len() as u32)?)
}

/// `(buffer: pointer, length, written: pointer) -> errno`: the name of the place, as far as there is room; `written` gets the
/// whole name's length.
fn where_am_i(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let (pointer, length, written) = (params.u32(0), params.u32(1), params.u32(2));
    memory.range(written, 1, 4)?;
    let place = world.mobility.as_ref().map(|mobility| mobility.here()).unwrap_or_default();
    let shown = place.as_bytes().get(..length as usize).unwrap_or(place.as_bytes());
    memory.write(pointer, shown)?;
    Ok(memory.write_u32(written, place.len() as u32)?)
}
