//! The table of descriptors: numbers, and what stands behind them. Each kind of object is frozen by its own group,
//! with the number and what all objects have in common.

use std::collections::BTreeMap;

use crate::codec::{CodecError, Reader, Writer};
use crate::errno::Errno;
use crate::error::Error;
use crate::memory::Memory;
use crate::preview1::files::{Directory, File};
use crate::preview1::sockets::{Connection, Listener};
use crate::preview1::{Break, Params, rights};
use crate::world::World;

/// What a descriptor stands for.
#[derive(Debug)]
pub(crate) enum Object {
    Stdin,
    Stdout,
    Stderr,
    Directory(Directory),
    File(File),
    Listener(Listener),
    Connection(Connection),
}

/// What every descriptor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Common {
    /// Calls on it return `EAGAIN` instead of blocking.
    pub(crate) nonblocking: bool,
    /// Rights that the program gave up.
    pub(crate) lost: u64,
    /// Rights that it gave up for what is opened from here.
    pub(crate) lost_inheriting: u64,
}

/// An open descriptor.
#[derive(Debug)]
pub(crate) struct Descriptor {
    pub(crate) common: Common,
    pub(crate) object: Object,
}

impl Descriptor {
    /// The program does away with it.
    fn close(mut self) {
        if let Object::Connection(connection) = &mut self.object {
            connection.close();
        }
    }
}

/// All open descriptors.
#[derive(Debug)]
pub(crate) struct Table {
    open: BTreeMap<u32, Descriptor>,
    limit: u32,
}

/// A descriptor's number and what every descriptor has: a part of the states of streams, files and sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DescriptorV1 {
    pub(crate) fd: u32,
    pub(crate) common: Common,
}

impl DescriptorV1 {
    pub(crate) fn write(&self, writer: &mut Writer) {
        let Common { nonblocking, lost, lost_inheriting } = self.common;
        writer.u32(self.fd);
        writer.flag(nonblocking);
        writer.u64(lost);
        writer.u64(lost_inheriting);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let fd = reader.u32()?;
        let nonblocking = reader.flag("blocking mode")?;
        let common = Common { nonblocking, lost: reader.u64()?, lost_inheriting: reader.u64()? };
        if (common.lost | common.lost_inheriting) & !rights::ALL != 0 {
            return Err(reader.invalid("set of rights"));
        }
        Ok(Self { fd, common })
    }
}

impl Table {
    pub(crate) fn new(limit: u32) -> Self {
        Self { open: BTreeMap::new(), limit }
    }

    /// The descriptor, for a call that needs `rights`.
    pub(crate) fn get(&self, fd: u32, rights: u64) -> Result<&Descriptor, Errno> {
        let descriptor = self.open.get(&fd).ok_or(Errno::Badf)?;
        if descriptor.common.lost & rights != 0 { Err(Errno::Notcapable) } else { Ok(descriptor) }
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, fd: u32, rights: u64) -> Result<&mut Descriptor, Errno> {
        let descriptor = self.open.get_mut(&fd).ok_or(Errno::Badf)?;
        if descriptor.common.lost & rights != 0 { Err(Errno::Notcapable) } else { Ok(descriptor) }
    }

    /// Whether another descriptor may be opened: `EMFILE` if not. Asked before anything is opened that a failure
    /// would have to undo.
    pub(crate) fn check_room(&self) -> Result<(), Errno> {
        if self.open.len() >= self.limit as usize { Err(Errno::Mfile) } else { Ok(()) }
    }

    /// Opens the lowest free number.
    pub(crate) fn insert(&mut self, common: Common, object: Object) -> Result<u32, Errno> {
        self.check_room()?;
        let free = (0..).zip(self.open.keys()).find(|(number, used)| number != *used);
        let fd = free.map_or(self.open.len() as u32, |(number, _)| number);
        self.open.insert(fd, Descriptor { common, object });
        Ok(fd)
    }

    /// The same for a world that is being made, where the limit is the configuration's fault.
    pub(crate) fn insert_initial(&mut self, object: Object) -> Result<(), Error> {
        let (open, limit) = (self.open.len() + 1, self.limit);
        self.insert(Common::default(), object).map(|_| ()).map_err(|_| Error::TooManyDescriptors { open, limit })
    }

    /// Opens a number that a snapshot tells.
    pub(crate) fn insert_at(&mut self, DescriptorV1 { fd, common }: DescriptorV1, object: Object) -> Result<(), Error> {
        if self.open.contains_key(&fd) {
            return Err(Error::DuplicateDescriptor { fd });
        }
        if self.open.len() >= self.limit as usize {
            return Err(Error::TooManyDescriptors { open: self.open.len() + 1, limit: self.limit });
        }
        self.open.insert(fd, Descriptor { common, object });
        Ok(())
    }

    /// Takes out everything that the program opened itself, to be put back.
    pub(crate) fn set_aside(&mut self) -> BTreeMap<u32, Descriptor> {
        let is_found = |descriptor: &Descriptor| match &descriptor.object {
            Object::Stdin | Object::Stdout | Object::Stderr | Object::Listener(_) => true,
            Object::Directory(directory) => directory.preopened,
            Object::File(_) | Object::Connection(_) => false,
        };
        self.open.extract_if(.., |_, descriptor| !is_found(descriptor)).collect()
    }

    /// Puts back what was set aside.
    pub(crate) fn put_back(&mut self, aside: BTreeMap<u32, Descriptor>) {
        self.open.extend(aside);
    }

    /// All open descriptors, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (DescriptorV1, &Object)> {
        self.open.iter().map(|(fd, Descriptor { common, object })| (DescriptorV1 { fd: *fd, common: *common }, object))
    }

    /// The same, to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (DescriptorV1, &mut Object)> {
        self.open
            .iter_mut()
            .map(|(fd, Descriptor { common, object })| (DescriptorV1 { fd: *fd, common: *common }, object))
    }
}

pub(crate) fn fd_close(world: &mut World, _: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let descriptor = world.table.open.remove(&params.u32(0)).ok_or(Errno::Badf)?;
    descriptor.close();
    Ok(())
}

/// The number `to` stands for what `from` stood for; what it stood for itself is closed.
pub(crate) fn fd_renumber(world: &mut World, _: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let (from, to) = (params.u32(0), params.u32(1));
    let open = &mut world.table.open;
    if !open.contains_key(&from) || !open.contains_key(&to) {
        return Err(Errno::Badf.into());
    }
    if from != to
        && let Some(descriptor) = open.remove(&from)
        && let Some(replaced) = open.insert(to, descriptor)
    {
        replaced.close();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_is_taken() {
        let mut table = Table::new(4);
        for expected in 0..4 {
            assert_eq!(table.insert(Common::default(), Object::Stdin), Ok(expected));
        }
        assert_eq!(table.insert(Common::default(), Object::Stdin), Err(Errno::Mfile));
        table.open.remove(&2);
        assert_eq!(table.insert(Common::default(), Object::Stdin), Ok(2));
        table.open.remove(&0);
        assert_eq!(table.insert(Common::default(), Object::Stdin), Ok(0));
    }
}
