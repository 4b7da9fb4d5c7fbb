//! An instance at its destination: compiled, instantiated and filled with memory while the program still runs
//! elsewhere.

use core::fmt;
use core::ops::Range;

use dunlin_base::{PAGE_SIZE, Value};
use dunlin_snapshot::State;

use crate::engine::Code;
use crate::error::Error;
use crate::host::Host;
use crate::instance::Instance;
use crate::limits::Limits;
use crate::live::Lazy;
use crate::validate::StateError;

/// An instance that takes the memory of a program page by page and then, in [`Prepared::finish`], everything else:
/// no memory is copied any more then. Its code is the resumable variant of the whole module, since nobody knows yet
/// which functions will be on the stack.
pub struct Prepared {
    instance: Instance,
    limits: Limits,
    /// What is in its tables.
    tables: Vec<Vec<Value>>,
}

impl Prepared {
    /// Instantiates `code`. `host` is what the program's imports are resolved against; the one that goes on with the
    /// program's state is given to [`Prepared::finish`].
    ///
    /// # Errors
    /// [`Error::NotMovable`], [`Error::NotResumable`], and as [`Instance::new`].
    pub fn new(code: &Code, host: Box<dyn Host>, limits: Limits) -> Result<Self, Error> {
        code.map().ok_or(Error::NotMovable)?;
        if !code.compiled().info.resumable {
            return Err(Error::NotResumable);
        }
        let mut instance = Instance::new(code, host, limits)?;
        let info = &code.compiled().info;
        for index in 0..instance.memories() {
            if info.fresh.get(index).is_none_or(|fresh| fresh.unknown) {
                instance.machine_mut().memory_mut(index as u32).fill(0);
            }
        }
        let tables = instance.tables()?;
        Ok(Self { instance, limits, tables })
    }

    /// How many memories there are.
    pub fn memories(&self) -> usize {
        self.instance.memories()
    }

    /// The present size of a memory in bytes.
    pub fn size(&self, memory: usize) -> u64 {
        self.bytes(memory).len() as u64
    }

    /// The whole of a memory as it is now.
    pub fn bytes(&self, memory: usize) -> &[u8] {
        if memory < self.memories() { self.instance.machine().memory(memory as u32) } else { &[] }
    }

    /// Writes consecutive pages from page `first` on; the last may be partial. The memory grows as needed.
    ///
    /// # Errors
    /// [`Error::State`] for a memory that the module does not have or a size that it cannot have, [`Error::Limit`]
    /// beyond the limits.
    pub fn write(&mut self, memory: usize, first: u64, bytes: &[u8]) -> Result<(), Error> {
        let (start, end) = self.make_room(memory, first, bytes.len() as u64)?;
        self.instance.machine_mut().memory_mut(memory as u32)[start..end].copy_from_slice(bytes);
        Ok(())
    }

    /// Clears `count` pages from page `first` on, up to the memory's end if the last one is partial.
    ///
    /// # Errors
    /// As [`Prepared::write`].
    pub fn clear(&mut self, memory: usize, first: u64, count: u64) -> Result<(), Error> {
        let (size, page) = (self.size(memory), PAGE_SIZE as u64);
        let start = first.saturating_mul(page);
        let mut end = first.saturating_add(count).saturating_mul(page);
        // The last page is partial if it is there and partial.
        if end > size && end - size < page && end > start {
            end = size;
        }
        let (start, end) = self.make_room(memory, first, end - start)?;
        let target = &mut self.instance.machine_mut().memory_mut(memory as u32)[start..end];
        // Writing zeros where there are zeros would only take memory.
        for page in target.chunks_mut(PAGE_SIZE).filter(|page| !dunlin_base::is_zero(page)) {
            page.fill(0);
        }
        Ok(())
    }

    /// Whether `page`, the contents of page `number`, is what a fresh instance of the module has there.
    pub fn is_fresh(&self, memory: usize, number: u64, page: &[u8]) -> bool {
        self.instance.code().is_fresh(memory, number, page)
    }

    /// Takes the pages `missing` (memory and range of pages) away, to be supplied while the program already runs: what
    /// was written to them before is gone. The memories must have their final sizes ([`Prepared::grow`]).
    /// `on_fault` is called with memory and page, from a thread of its own, when code waits for a page.
    ///
    /// # Errors
    /// [`Error::Supply`] where [`Lazy::is_available`] says no, or for pages outside of the memories.
    pub fn lazy(
        &mut self,
        missing: &[(usize, Range<u64>)],
        on_fault: Box<dyn Fn(usize, u64) + Send>,
    ) -> Result<Lazy, Error> {
        let unsupported = || Error::Supply(std::io::ErrorKind::Unsupported.into());
        let mappings = (0..self.memories() as u32).map(|index| self.instance.machine().mapping(index));
        let mappings = mappings.collect::<Option<Vec<_>>>().ok_or_else(unsupported)?;
        Lazy::new(&mappings, missing, on_fault)
    }

    /// Makes a memory at least `size` bytes large.
    ///
    /// # Errors
    /// As [`Prepared::write`].
    pub fn grow(&mut self, memory: usize, size: u64) -> Result<(), Error> {
        self.make_room(memory, 0, size).map(drop)
    }

    /// A handle with which any thread can stop the program once it runs.
    pub fn stop_handle(&self) -> crate::stop::StopHandle {
        self.instance.stop_handle()
    }

    /// Becomes the program: `rest` is its state, of whose memories only the sizes count, and `host` the world around
    /// it from now on. [Resume](Instance::resume) it to let it go on.
    ///
    /// # Errors
    /// As [`Instance::restore`], and [`Error::State`] if a memory was already made larger than `rest` says.
    pub fn finish(self, rest: &State, host: Box<dyn Host>) -> Result<Instance, Error> {
        let Self { mut instance, limits, tables } = self;
        for (index, memory) in rest.memories.iter().enumerate().take(instance.memories()) {
            let size = instance.machine().memory(index as u32).len() as u64;
            if memory.size < size {
                let what = format!("memory {index}");
                return Err(
                    StateError::Size { what, size: memory.size, allowed: format!("{size} bytes or more") }.into()
                );
            }
        }
        instance.finish(rest, host, &limits, &tables)?;
        Ok(instance)
    }

    /// Makes room for `length` bytes from page `first` on, and tells where in the memory they lie.
    fn make_room(&mut self, memory: usize, first: u64, length: u64) -> Result<(usize, usize), Error> {
        let map = self.instance.code().map().ok_or(Error::NotMovable)?;
        let what = || format!("memory {memory}");
        let info = map.memories.get(memory).ok_or(StateError::Number {
            what: "memories",
            found: memory.saturating_add(1),
            expected: map.memories.len(),
        })?;
        let start = first.saturating_mul(PAGE_SIZE as u64);
        let end = start.saturating_add(length);
        let size = self.instance.machine().memory(memory as u32).len() as u64;
        if end > size {
            let unit = 1_u64.checked_shl(info.page_size_log2).unwrap_or(u64::MAX);
            let pages = end.div_ceil(unit);
            if info.maximum.is_some_and(|maximum| pages > maximum) {
                let allowed = format!("up to {} pages of {unit} bytes", info.maximum.unwrap_or(0));
                return Err(StateError::Size { what: what(), size: end, allowed }.into());
            }
            let wanted = pages.saturating_mul(unit);
            if wanted > self.limits.memory_bytes {
                return Err(Error::Limit { what: what(), wanted, limit: self.limits.memory_bytes });
            }
            let grown = self.instance.machine_mut().grow_memory(memory as u32, pages - size / unit);
            grown.map_err(|source| Error::Value { place: what(), source })?;
        }
        let index = |at: u64| {
            usize::try_from(at).map_err(|_| Error::Limit { what: what(), wanted: end, limit: usize::MAX as u64 })
        };
        Ok((index(start)?, index(end)?))
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("code", self.instance.code()).finish_non_exhaustive()
    }
}
