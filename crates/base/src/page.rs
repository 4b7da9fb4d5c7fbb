//! Linear memory is looked at, compared and moved in pages of 4 KiB, whatever the host's page size is.

/// The size in bytes of the pages that snapshots and migrations are made of.
pub const PAGE_SIZE: usize = 4096;

/// How many pages of [`PAGE_SIZE`] cover `bytes` (the last one may be partial).
pub const fn page_count(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_SIZE as u64)
}

/// Whether every byte is zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Sixteen bytes at a time: the compiler makes vector code of it.
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_partial_pages() {
        assert_eq!((page_count(0), page_count(1), page_count(4096), page_count(4097)), (0, 1, 1, 2));
        assert_eq!(page_count(u64::MAX), 1 << 52);
    }

    #[test]
    fn finds_a_single_bit() {
        let mut page = vec![0; PAGE_SIZE + 3];
        assert!(is_zero(&page));
        for at in [0, 63, 64, PAGE_SIZE - 1, PAGE_SIZE + 2] {
            page[at] = 1;
            assert!(!is_zero(&page), "byte {at}");
            page[at] = 0;
        }
    }
}
