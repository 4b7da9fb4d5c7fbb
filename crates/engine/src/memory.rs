//! Linear memory for Wasmtime, in our own mappings: the base never moves, so that native code needs no bounds
//! checks, any thread can set the stop flag, and pages can be tracked.
#![allow(unsafe_code, reason = "maps memory and gives Wasmtime and other threads raw access to it")]

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// Address space reserved for a memory whose declared limit is larger than what every memory gets (64-bit
/// memories). Only address space: nothing is allocated.
const LARGE_RESERVATION: usize = 1 << 40;

/// One linear memory: `size` accessible bytes at a base that never moves, then inaccessible address space.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    /// Bytes of address space, guard included.
    length: usize,
    /// Bytes to which the memory can grow.
    capacity: usize,
    /// Bytes that the program may access; only grows.
    size: AtomicUsize,
}

// SAFETY: the mapping is owned, and its bytes are only accessed through raw pointers and atomics; the pointer itself
// never changes.
unsafe impl Send for Mapping {}
// SAFETY: as above; `size` is atomic, and growth only widens the accessible part.
unsafe impl Sync for Mapping {}

/// The sizes of an instance's memories, for as long as it is there.
#[derive(Debug, Default)]
pub struct MemorySizes(pub(crate) Vec<Weak<Mapping>>);

impl MemorySizes {
    /// All of them together, in bytes; `None` if there are none.
    pub fn bytes(&self) -> Option<u64> {
        let sizes = self.0.iter().filter_map(Weak::upgrade).map(|mapping| mapping.size() as u64);
        sizes.reduce(u64::saturating_add)
    }
}

impl Mapping {
    /// Reserves `capacity` bytes and a guard, and makes the first `size` accessible and zero. `capacity` and
    /// `guard` are multiples of the system's page size.
    fn new(capacity: usize, guard: usize, size: usize) -> io::Result<Self> {
        let length = capacity.checked_add(guard).filter(|_| size <= capacity).ok_or(io::ErrorKind::OutOfMemory)?;
        let length = length.max(rustix::param::page_size());
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe {
            mmap_anonymous(ptr::null_mut(), length, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = Self { base, length, capacity, size: AtomicUsize::new(0) };
        mapping.grow(size)?;
        Ok(mapping)
    }

    /// Makes the first `size` bytes accessible.
    fn grow(&self, size: usize) -> io::Result<()> {
        let old = self.size.load(Ordering::Acquire);
        if size > self.capacity {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let page = rustix::param::page_size();
        let (from, to) = (old.next_multiple_of(page), size.next_multiple_of(page));
        if to > from {
            // SAFETY: `from..to` lies inside this mapping, because `to` is at most `capacity`, which is a multiple
            // of the page size; making more of our own mapping accessible invalidates nothing.
            unsafe {
                mprotect(self.base.as_ptr().add(from).cast(), to - from, MprotectFlags::READ | MprotectFlags::WRITE)?;
            }
        }
        self.size.fetch_max(size, Ordering::AcqRel);
        Ok(())
    }

    /// Where the memory begins.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Bytes that the program may access.
    pub(crate) fn size(&self) -> usize {
        self.size.load(Ordering::Acquire)
    }

    /// Bytes to which the memory can grow, a multiple of the system's page size.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Appends bytes to `out` while the program may be writing them: each aligned word is as it was at some moment
    /// of the call. Returns false, appending nothing, if they are not all inside the memory.
    pub(crate) fn append_to(&self, offset: usize, length: usize, out: &mut Vec<u8>) -> bool {
        if self.check(offset, length).is_none() {
            return false;
        }
        let (whole, rest) = if offset.is_multiple_of(8) { (length / 8, length % 8) } else { (0, length) };
        let start = self.base.as_ptr().wrapping_add(offset).cast::<u64>();
        let from = out.len();
        out.resize(from + whole * 8, 0);
        for (index, eight) in out[from..].as_chunks_mut::<8>().0.iter_mut().enumerate() {
            // SAFETY: inside the accessible part (checked), aligned since base and offset are, and Rust code only
            // accesses this memory atomically while the program runs.
            let word = unsafe { AtomicU64::from_ptr(start.wrapping_add(index)) }.load(Ordering::Relaxed);
            *eight = word.to_ne_bytes();
        }
        self.walk(offset + whole * 8, rest, |unit| match unit {
            Unit::Byte(byte) => out.push(byte.load(Ordering::Relaxed)),
            Unit::Eight(eight) => out.extend_from_slice(&eight.load(Ordering::Relaxed).to_ne_bytes()),
        });
        true
    }

    /// A word of the memory. Compiled code reads and writes it as well, with single machine instructions, which
    /// the atomics of this process order with.
    ///
    /// # Panics
    /// If the word is not aligned or not inside the memory; callers pass the control memory's fixed offsets.
    pub(crate) fn word(&self, offset: u32) -> &AtomicU32 {
        let offset = offset as usize;
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.size(), "the control memory holds its words");
        // SAFETY: the word is inside the accessible part (just checked), which stays mapped as long as `self`; it is
        // aligned because the base is page-aligned; Rust code only accesses the control memory atomically.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }

    /// Copies bytes out, or `None` if they are not all inside the memory.
    pub(crate) fn read(&self, offset: usize, length: usize) -> Option<Vec<u8>> {
        self.check(offset, length)?;
        let mut bytes = Vec::with_capacity(length);
        self.walk(offset, length, |unit| match unit {
            Unit::Byte(byte) => bytes.push(byte.load(Ordering::Relaxed)),
            Unit::Eight(eight) => bytes.extend_from_slice(&eight.load(Ordering::Relaxed).to_ne_bytes()),
        });
        Some(bytes)
    }

    /// Copies bytes in, or does nothing and returns `None` if they would not all be inside the memory.
    pub(crate) fn write(&self, offset: usize, mut bytes: &[u8]) -> Option<()> {
        self.check(offset, bytes.len())?;
        self.walk(offset, bytes.len(), |unit| match unit {
            Unit::Byte(byte) => {
                byte.store(bytes[0], Ordering::Relaxed);
                bytes = &bytes[1..];
            }
            Unit::Eight(eight) => {
                let (first, rest) = bytes.split_first_chunk().expect("the walk covers exactly the bytes");
                eight.store(u64::from_ne_bytes(*first), Ordering::Relaxed);
                bytes = rest;
            }
        });
        Some(())
    }

    fn check(&self, offset: usize, length: usize) -> Option<()> {
        (offset.checked_add(length)? <= self.size()).then_some(())
    }

    /// Visits `offset..offset + length`, which the caller has checked, eight aligned bytes at a time where possible.
    fn walk(&self, offset: usize, length: usize, mut visit: impl FnMut(Unit<'_>)) {
        let end = offset + length;
        debug_assert!(end <= self.size());
        let mut at = offset;
        while at < end {
            let address = self.base.as_ptr().wrapping_add(at);
            if at.is_multiple_of(8) && end - at >= 8 {
                // SAFETY: inside the accessible part, aligned since the base is page-aligned, and Rust code only
                // accesses this memory atomically.
                visit(Unit::Eight(unsafe { AtomicU64::from_ptr(address.cast()) }));
                at += 8;
            } else {
                // SAFETY: as above; bytes need no alignment.
                visit(Unit::Byte(unsafe { AtomicU8::from_ptr(address) }));
                at += 1;
            }
        }
    }
}

enum Unit<'a> {
    Byte(&'a AtomicU8),
    Eight(&'a AtomicU64),
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever could access it holds a reference that keeps it from being
        // dropped (Wasmtime through `Linear`, others through an `Arc`).
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.length) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Creates the memories of one engine and knows those that exist by their base.
#[derive(Debug, Default)]
pub(crate) struct Memories {
    by_base: Arc<Mutex<HashMap<usize, Weak<Mapping>>>>,
}

impl Memories {
    /// The mapping that begins at `base`.
    pub(crate) fn at(&self, base: *const u8) -> Option<Arc<Mapping>> {
        self.by_base.lock().unwrap_or_else(PoisonError::into_inner).get(&base.addr())?.upgrade()
    }
}

// SAFETY: each memory is a mapping of its own, zero-filled by the kernel, with at least the reservation and the guard
// that are asked for behind it; it is only changed by Wasmtime, by `Mapping`'s atomics, and through the slices
// that Wasmtime hands out.
unsafe impl wasmtime::MemoryCreator for Memories {
    fn new_memory(
        &self,
        _ty: wasmtime::MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn wasmtime::LinearMemory>, String> {
        let page = rustix::param::page_size();
        let round = |bytes: usize| bytes.checked_next_multiple_of(page).unwrap_or(usize::MAX / page * page);
        let least = round(minimum).max(round(reserved.unwrap_or(0)));
        // Within the reservation the maximum is reachable for every 32-bit memory. Beyond it, reserve as much
        // address space as there is, down to the least.
        let mut capacity = least.max(round(maximum.unwrap_or(usize::MAX)).min(LARGE_RESERVATION));
        if reserved.is_some_and(|reserved| maximum.is_some_and(|maximum| maximum <= reserved)) {
            capacity = least;
        }
        let guard = round(guard);
        let mapping = loop {
            match Mapping::new(capacity, guard, minimum) {
                Ok(mapping) => break Arc::new(mapping),
                Err(_) if capacity > least => capacity = least.max(round(capacity / 2)),
                Err(error) => return Err(format!("cannot map {minimum} bytes of linear memory: {error}")),
            }
        };
        let mut by_base = self.by_base.lock().unwrap_or_else(PoisonError::into_inner);
        by_base.insert(mapping.base().addr(), Arc::downgrade(&mapping));
        drop(by_base);
        Ok(Box::new(Linear { mapping, by_base: self.by_base.clone() }))
    }
}

/// Wasmtime's hold on a mapping.
struct Linear {
    mapping: Arc<Mapping>,
    by_base: Arc<Mutex<HashMap<usize, Weak<Mapping>>>>,
}

impl Drop for Linear {
    fn drop(&mut self) {
        self.by_base.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.mapping.base().addr());
    }
}

// SAFETY: the base is page-aligned and never moves, `byte_size` bytes behind it are accessible, and everything up to
// the reservation and the guard behind it belongs to the same mapping and is inaccessible.
unsafe impl wasmtime::LinearMemory for Linear {
    fn byte_size(&self) -> usize {
        self.mapping.size()
    }

    fn byte_capacity(&self) -> usize {
        self.mapping.capacity
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        Ok(self.mapping.grow(size)?)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.mapping.base()
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::MemoryCreator as _;

    use super::*;

    #[test]
    fn grows_in_place_and_keeps_its_bytes() {
        let mapping = Mapping::new(1 << 32, 1 << 16, 65536).unwrap();
        let base = mapping.base();
        assert_eq!(mapping.read(0, 65536).unwrap(), vec![0; 65536]);
        mapping.write(65530, &[1, 2, 3, 4, 5, 6]).unwrap();
        mapping.write(3, b"an unaligned run of bytes").unwrap();
        assert_eq!(mapping.write(65530, &[0; 7]), None);
        assert_eq!(mapping.read(usize::MAX, 2), None);
        mapping.grow(3 * 65536).unwrap();
        assert_eq!(mapping.base(), base);
        assert_eq!(mapping.read(65530, 7).unwrap(), [1, 2, 3, 4, 5, 6, 0]);
        assert_eq!(mapping.read(3, 25).unwrap(), b"an unaligned run of bytes");
        assert!(mapping.grow((1 << 32) + 1).is_err());
        assert_eq!(mapping.size(), 3 * 65536);
    }

    #[test]
    fn forgets_memories_that_are_gone() {
        let memories = Memories::default();
        let ty = wasmtime::MemoryType::new(1, None);
        let memory = memories.new_memory(ty, 65536, None, Some(1 << 32), 1 << 25).unwrap();
        let base = memory.as_ptr();
        assert_eq!(memories.at(base).unwrap().size(), 65536);
        drop(memory);
        assert!(memories.at(base).is_none());
    }
}
