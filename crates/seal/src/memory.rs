//! Where keys are: in pages of their own that are locked, left out of core dumps and of child processes, and wiped.

#![allow(unsafe_code, reason = "pages of secrets are mapped, locked and unmapped here, and nowhere else")]

use core::ffi::c_void;
use core::ptr::{NonNull, null_mut};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use zeroize::{Zeroize as _, Zeroizing};

/// Bytes of a key.
pub(crate) const KEY: usize = 32;
/// Bytes that are mapped for one key. Any size of page divides it or is rounded up to by the system.
const MAPPED: usize = 4096;
/// More than any derivation or cipher of this crate puts on the stack.
const DIRTY_STACK: usize = 16 * 1024;

/// A key in memory. It has no text form and cannot be compared or cloned by accident.
pub(crate) struct Secret(Place);

enum Place {
    /// The start of a page that this value alone owns.
    Page(NonNull<[u8; KEY]>),
    /// Where the system gives no page.
    Heap(Box<Zeroizing<[u8; KEY]>>),
}

// SAFETY: a page belongs to its one `Secret`, and nothing about it depends on the thread.
unsafe impl Send for Secret {}
// SAFETY: through a shared reference the page is only read.
unsafe impl Sync for Secret {}

impl Secret {
    /// Has `fill` write a key into its final place, so that there is no other copy to wipe.
    pub(crate) fn fill(fill: impl FnOnce(&mut [u8; KEY])) -> Self {
        let mut secret = Self(map().map_or_else(|| Place::Heap(Box::new(Zeroizing::new([0; KEY]))), Place::Page));
        with_clean_stack(|| fill(secret.bytes_mut()));
        secret
    }

    /// The key. Whoever copies it has to wipe the copy.
    pub(crate) fn bytes(&self) -> &[u8; KEY] {
        match &self.0 {
            // SAFETY: the page is mapped readable until `drop`, is aligned to far more than a byte, and was filled with
            // zeros by the system or with a key since.
            Place::Page(page) => unsafe { page.as_ref() },
            Place::Heap(bytes) => bytes,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8; KEY] {
        match &mut self.0 {
            // SAFETY: as for `bytes`; the page is writable, and `self` is borrowed alone.
            Place::Page(page) => unsafe { page.as_mut() },
            Place::Heap(bytes) => bytes,
        }
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        if let Place::Page(page) = self.0 {
            // SAFETY: exactly what `map` mapped, and nothing refers to it any more. The error could only be that it is
            // not mapped.
            let _gone = unsafe { munmap(page.as_ptr().cast::<c_void>(), MAPPED) };
        }
    }
}

fn map() -> Option<NonNull<[u8; KEY]>> {
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new mapping at an address that the system chooses.
    let page = unsafe { mmap_anonymous(null_mut(), MAPPED, protection, flags) }.ok()?;
    // Locking may be beyond the process's limit, and advice unknown to the system: the key is then as safe as the
    // process, which `harden` keeps out of dumps as a whole.
    // SAFETY: the page was just mapped, and none of the three changes what is in it in this process.
    let _as_far_as_possible = unsafe {
        let _locked = mlock(page, MAPPED);
        let _not_dumped = madvise(page, MAPPED, Advice::LinuxDontDump);
        madvise(page, MAPPED, Advice::LinuxDontFork)
    };
    NonNull::new(page.cast())
}

/// Runs `work`, then overwrites the part of the stack that it may have used: ciphers and hashes leave copies of keys in
/// frames that nobody wipes.
pub(crate) fn with_clean_stack<T>(work: impl FnOnce() -> T) -> T {
    #[inline(never)]
    fn framed<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
    #[inline(never)]
    fn overwrite() {
        let mut frame = [1u8; DIRTY_STACK];
        frame.zeroize();
    }
    let result = framed(work);
    overwrite();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_holds_what_was_filled_in() {
        let secret = Secret::fill(|bytes| bytes.copy_from_slice(&[7; KEY]));
        assert_eq!(secret.bytes(), &[7; KEY]);
        let heap = Secret(Place::Heap(Box::new(Zeroizing::new([8; KEY]))));
        assert_eq!(heap.bytes(), &[8; KEY]);
    }
}
