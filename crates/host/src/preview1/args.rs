//! Arguments and environment. State: both, as they were when the program began.

use dunlin_snapshot::HostSection;

use crate::codec::{CodecError, Reader, Writer};
use crate::errno::Errno;
use crate::error::Error;
use crate::memory::Memory;
use crate::preview1::{Break, Params};
use crate::sections::{Frozen, Sections, kind};
use crate::world::World;

/// Arguments and environment.
#[derive(Debug)]
pub(crate) struct Args(ArgsV1);

/// Arguments and environment, as the program gets them but for the zero that ends each.
#[derive(Debug)]
struct ArgsV1 {
    args: Vec<String>,
    /// `NAME=VALUE`.
    env: Vec<String>,
}

impl Frozen for ArgsV1 {
    const KIND: u16 = kind::ARGS;
    const VERSION: u16 = 1;

    fn write(&self, writer: &mut Writer) {
        for list in [&self.args, &self.env] {
            writer.list(list, |text, writer| writer.text(text));
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let text = |reader: &mut Reader<'_>| {
            let text = reader.text("argument or variable")?;
            if text.contains('\0') { Err(reader.invalid("argument or variable")) } else { Ok(text) }
        };
        Ok(Self { args: reader.list(text)?, env: reader.list(text)? })
    }
}

impl Args {
    pub(crate) fn new(args: Vec<String>, env: Vec<(String, String)>) -> Result<Self, Error> {
        if let Some(arg) = args.iter().find(|arg| arg.contains('\0')) {
            return Err(Error::ZeroByte { what: format!("argument {arg:?}") });
        }
        if let Some((name, _)) = env.iter().find(|(name, value)| name.contains('\0') || value.contains('\0')) {
            return Err(Error::ZeroByte { what: format!("environment variable {name:?}") });
        }
        let env = env.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        Ok(Self(ArgsV1 { args, env }))
    }

    pub(crate) fn freeze(&self) -> HostSection {
        self.0.section()
    }

    pub(crate) fn thaw(sections: &Sections<'_>) -> Result<Self, Error> {
        Ok(Self(sections.required()?))
    }
}

pub(crate) fn args_get(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    get(&world.args.0.args, memory, params)
}

pub(crate) fn args_sizes_get(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    sizes(&world.args.0.args, memory, params)
}

pub(crate) fn environ_get(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    get(&world.args.0.env, memory, params)
}

pub(crate) fn environ_sizes_get(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    sizes(&world.args.0.env, memory, params)
}

fn get(list: &[String], memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let (mut pointer, mut text) = (u64::from(params.u32(0)), u64::from(params.u32(1)));
    let address = |at: u64| u32::try_from(at).map_err(|_| Errno::Fault);
    for entry in list {
        memory.write_u32(address(pointer)?, address(text)?)?;
        memory.write(address(text)?, entry.as_bytes())?;
        memory.write(address(text + entry.len() as u64)?, &[0])?;
        pointer += 4;
        text += entry.len() as u64 + 1;
    }
    Ok(())
}

fn sizes(list: &[String], memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let count = u32::try_from(list.len()).map_err(|_| Errno::Overflow)?;
    let bytes: usize = list.iter().map(|entry| entry.len() + 1).sum();
    memory.write_u32(params.u32(0), count)?;
    memory.write_u32(params.u32(1), u32::try_from(bytes).map_err(|_| Errno::Overflow)?)?;
    Ok(())
}
