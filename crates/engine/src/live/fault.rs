//! The kernel's part in watching memory: userfaultfd and the `PAGEMAP_SCAN` call.
#![allow(unsafe_code, reason = "ioctls that watch mappings and put pages into them")]

use core::ffi::c_void;
use core::mem::size_of;
use core::ops::Range;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};
use rustix::mm::{Advice, UserfaultfdFlags, madvise, userfaultfd};

use crate::memory::Mapping;

const API: u64 = 0xaa;
/// Writes to protected pages go on at once and only leave a mark.
const FEATURE_WP_ASYNC: u64 = 1 << 15;
/// Only faults of code in user mode are handled; allowed without privileges.
const USER_MODE_ONLY: u32 = 1;

const MODE_MISSING: u64 = 1;
const MODE_WP: u64 = 2;

const SCAN_WP_MATCHING: u64 = 1;
const SCAN_CHECK_WPASYNC: u64 = 2;
const PAGE_IS_WRITTEN: u64 = 2;

/// Ranges taken from one `PAGEMAP_SCAN`.
const REGIONS: usize = 4096;

const EVENT_PAGEFAULT: u8 = 0x12;

#[repr(C)]
struct ApiArg {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct RangeArg {
    start: u64,
    length: u64,
}

#[repr(C)]
struct RegisterArg {
    range: RangeArg,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct CopyArg {
    to: u64,
    from: u64,
    length: u64,
    mode: u64,
    done: i64,
}

#[repr(C)]
struct ZeroArg {
    range: RangeArg,
    mode: u64,
    done: i64,
}

#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_length: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_any: u64,
    return_mask: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// One call whose argument is read and written by the kernel; the result is its return value.
struct Call<'a, T> {
    opcode: Opcode,
    arg: &'a mut T,
}

// SAFETY: the argument is a `repr(C)` structure that is exclusively borrowed, of the type that `opcode` was made
// from, and counted as mutated.
unsafe impl<T> Ioctl for Call<'_, T> {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        core::ptr::from_mut(self.arg).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<IoctlOutput> {
        Ok(out)
    }
}

/// Marks that show which pages were written since they were last asked for. They vanish with this.
#[derive(Debug)]
pub(crate) struct WriteWatch {
    // Kept open: the registration ends with it.
    _userfault: OwnedFd,
    pagemap: File,
    mappings: Vec<Arc<Mapping>>,
    system_page: u64,
}

impl WriteWatch {
    /// Watches all of `mappings`, also what they grow to.
    pub(crate) fn new(mappings: &[Arc<Mapping>]) -> io::Result<Self> {
        // Nobody reads events of asynchronous write-protection, so that faults in the kernel need no handling.
        let (userfault, _) = open(FEATURE_WP_ASYNC)?;
        let pagemap = crate::pagemap::file()?;
        for mapping in mappings {
            register(userfault.as_fd(), mapping, mapping.capacity(), MODE_WP)?;
        }
        let watch = Self {
            _userfault: userfault,
            pagemap,
            mappings: mappings.to_vec(),
            system_page: rustix::param::page_size() as u64,
        };
        // A kernel that has one of the two calls only is found out here, before anything relies on it.
        if let Some(mapping) = mappings.first() {
            let base = mapping.base().addr() as u64;
            watch.scan_once(base, base, &mut [Region::default()])?;
        }
        Ok(watch)
    }

    /// The ranges of bytes of the first `size` that were written since the last call, in whole pages of the system;
    /// protects them again. The first call gives everything that was ever touched. Whoever calls looks at the size once: what
    /// is listed here is listed once, and what the memory grew by meanwhile is left for the next call.
    pub(crate) fn scan(&self, index: usize, size: u64) -> io::Result<Vec<Range<u64>>> {
        let base = self.mappings[index].base().addr() as u64;
        let end = base + size.next_multiple_of(self.system_page);
        let mut regions = vec![Region::default(); REGIONS];
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut at = base;
        while at < end {
            let (count, walked) = self.scan_once(at, end, &mut regions)?;
            for region in &regions[..count] {
                let (from, to) = (region.start - base, region.end - base);
                match ranges.last_mut() {
                    Some(last) if last.end == from => last.end = to,
                    _ => ranges.push(from..to),
                }
            }
            if count < REGIONS {
                break;
            }
            at = walked;
        }
        Ok(ranges)
    }

    fn scan_once(&self, start: u64, end: u64, regions: &mut [Region]) -> io::Result<(usize, u64)> {
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            flags: SCAN_WP_MATCHING | SCAN_CHECK_WPASYNC,
            start,
            end,
            vec: regions.as_mut_ptr().addr() as u64,
            vec_length: regions.len() as u64,
            category_mask: PAGE_IS_WRITTEN,
            return_mask: PAGE_IS_WRITTEN,
            ..ScanArg::default()
        };
        regions.as_mut_ptr().expose_provenance();
        let call = Call { opcode: opcode::read_write::<ScanArg>(b'f', 16), arg: &mut arg };
        // SAFETY: the kernel writes at most `vec_length` regions to `vec`, which are exclusively borrowed; protecting
        // pages of a mapping under asynchronous write-protection changes nothing that code can observe.
        let count = unsafe { rustix::ioctl::ioctl(&self.pagemap, call) }?;
        Ok((usize::try_from(count).unwrap_or(0).min(regions.len()), arg.walk_end))
    }
}

/// A fault of code that touched a page that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Index of the mapping.
    pub(crate) mapping: usize,
    /// Byte offset of the page in it.
    pub(crate) offset: u64,
}

/// Mappings in which touching a page that is not there waits until it is put there.
#[derive(Debug)]
pub(crate) struct MissingWatch {
    userfault: OwnedFd,
    /// The mappings and how much of each is watched.
    mappings: Vec<(Arc<Mapping>, u64)>,
}

impl MissingWatch {
    /// Whether this process may handle all faults, also those of system calls that the host makes on the program's
    /// memory.
    pub(crate) fn is_available() -> bool {
        rustix::param::page_size() == dunlin_base::PAGE_SIZE && open(0).is_ok_and(|(_, kernel)| kernel)
    }

    /// Watches the present size of all of `mappings`.
    pub(crate) fn new(mappings: &[Arc<Mapping>]) -> io::Result<Self> {
        let (userfault, kernel) = open(0)?;
        if !kernel {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        let mut watched = Vec::with_capacity(mappings.len());
        for mapping in mappings {
            let length = mapping.size().next_multiple_of(rustix::param::page_size());
            if length > 0 {
                register(userfault.as_fd(), mapping, length, MODE_MISSING)?;
            }
            watched.push((mapping.clone(), length as u64));
        }
        Ok(Self { userfault, mappings: watched })
    }

    /// Takes pages away: `range` in bytes of mapping `index`, in whole pages. What was in them is gone.
    pub(crate) fn drop_pages(&self, index: usize, range: &Range<u64>) -> io::Result<()> {
        let (base, length) = self.inside(index, range)?;
        // SAFETY: the range lies inside the mapping (just checked), which is anonymous and private: it reads as
        // missing afterwards, and no reference into it exists while no code of the program runs.
        unsafe { madvise(base.cast(), length, Advice::LinuxDontNeed) }?;
        Ok(())
    }

    /// Puts one page there and wakes who waits for it. `false` if a page is there already, which is left alone.
    pub(crate) fn place(&self, index: usize, offset: u64, page: &[u8]) -> io::Result<bool> {
        let (base, length) = self.inside(index, &(offset..offset + page.len() as u64))?;
        let mut arg = CopyArg {
            to: base.addr() as u64,
            from: page.as_ptr().expose_provenance() as u64,
            length: length as u64,
            mode: 0,
            done: 0,
        };
        let call = Call { opcode: opcode::read_write::<CopyArg>(API as u8, 3), arg: &mut arg };
        // SAFETY: the kernel reads `length` bytes of `page` and fills only absent pages of a watched mapping.
        placed(unsafe { rustix::ioctl::ioctl(&self.userfault, call) })
    }

    /// As [`MissingWatch::place`], with zeros.
    pub(crate) fn place_zero(&self, index: usize, offset: u64) -> io::Result<bool> {
        let page = dunlin_base::PAGE_SIZE as u64;
        let (base, length) = self.inside(index, &(offset..offset + page))?;
        let range = RangeArg { start: base.addr() as u64, length: length as u64 };
        let mut arg = ZeroArg { range, mode: 0, done: 0 };
        let call = Call { opcode: opcode::read_write::<ZeroArg>(API as u8, 4), arg: &mut arg };
        // SAFETY: the kernel fills only absent pages of a watched mapping.
        placed(unsafe { rustix::ioctl::ioctl(&self.userfault, call) })
    }

    /// From now on pages that are not there read as zeros, as usual, and nobody waits.
    pub(crate) fn end(&self) -> io::Result<()> {
        for (mapping, length) in self.mappings.iter().filter(|(_, length)| *length > 0) {
            let mut arg = RangeArg { start: mapping.base().addr() as u64, length: *length };
            let call = Call { opcode: opcode::read::<RangeArg>(API as u8, 1), arg: &mut arg };
            // SAFETY: ends the watch over our own mapping; the caller has put every page there.
            unsafe { rustix::ioctl::ioctl(&self.userfault, call) }?;
        }
        Ok(())
    }

    /// The descriptor, readable when there are faults.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.userfault.as_fd()
    }

    /// The faults that have come, as far as there is room for them.
    pub(crate) fn faults(&self) -> io::Result<Vec<Fault>> {
        /// Size of `struct uffd_msg`.
        const MESSAGE: usize = 32;
        let mut buffer = [0; MESSAGE * 16];
        let length = match rustix::io::read(&self.userfault, &mut buffer) {
            Ok(length) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut faults = Vec::new();
        for message in buffer[..length].as_chunks::<MESSAGE>().0 {
            if message[0] != EVENT_PAGEFAULT {
                continue;
            }
            let mut word = [0; 8];
            word.copy_from_slice(&message[16..24]);
            let address = u64::from_ne_bytes(word);
            let found = self.mappings.iter().position(|(mapping, length)| {
                let base = mapping.base().addr() as u64;
                (base..base + length).contains(&address)
            });
            if let Some(index) = found {
                let offset = address - self.mappings[index].0.base().addr() as u64;
                let page = dunlin_base::PAGE_SIZE as u64;
                faults.push(Fault { mapping: index, offset: offset / page * page });
            }
        }
        Ok(faults)
    }

    fn inside(&self, index: usize, range: &Range<u64>) -> io::Result<(*mut u8, usize)> {
        let outside = || io::Error::from(io::ErrorKind::InvalidInput);
        let (mapping, length) = self.mappings.get(index).ok_or_else(outside)?;
        if range.start > range.end || range.end > *length {
            return Err(outside());
        }
        Ok((mapping.base().wrapping_add(range.start as usize), (range.end - range.start) as usize))
    }
}

fn placed(result: rustix::io::Result<IoctlOutput>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A userfaultfd with `features`, and whether it also handles faults in the kernel.
fn open(features: u64) -> io::Result<(OwnedFd, bool)> {
    let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
    // SAFETY: the descriptor stays in this module, which only registers mappings of its own with it.
    let (userfault, kernel) = match unsafe { userfaultfd(flags) } {
        Ok(userfault) => (userfault, true),
        Err(rustix::io::Errno::PERM) => {
            // SAFETY: as above.
            (unsafe { userfaultfd(flags | UserfaultfdFlags::from_bits_retain(USER_MODE_ONLY)) }?, false)
        }
        Err(error) => return Err(error.into()),
    };
    let mut arg = ApiArg { api: API, features, ioctls: 0 };
    let call = Call { opcode: opcode::read_write::<ApiArg>(API as u8, 0x3f), arg: &mut arg };
    // SAFETY: the first call on every userfaultfd; it only agrees on features.
    unsafe { rustix::ioctl::ioctl(&userfault, call) }?;
    if arg.features & features != features {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok((userfault, kernel))
}

fn register(userfault: BorrowedFd<'_>, mapping: &Mapping, length: usize, mode: u64) -> io::Result<()> {
    let range = RangeArg { start: mapping.base().addr() as u64, length: length as u64 };
    let mut arg = RegisterArg { range, mode, ioctls: 0 };
    let call = Call { opcode: opcode::read_write::<RegisterArg>(API as u8, 0), arg: &mut arg };
    // SAFETY: the range is the beginning of our own mapping, `length` at most its length. Write-protection in the
    // asynchronous mode changes nothing that code can observe; missing pages are what the caller is there to supply.
    unsafe { rustix::ioctl::ioctl(userfault, call) }?;
    Ok(())
}
