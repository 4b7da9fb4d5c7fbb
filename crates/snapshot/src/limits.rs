//! What a reader accepts.

/// Upper bounds that are checked before anything is decoded or allocated.
///
/// The defaults suit a machine that takes snapshots from its own fleet; a node that restores for a tenant sets them
/// to the tenant's quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Length of the whole snapshot in bytes.
    pub total_bytes: u64,
    /// Number of sections.
    pub sections: u32,
    /// Length of the embedded module in bytes.
    pub module_bytes: u64,
    /// Number of frames on the stack.
    pub frames: u32,
    /// Number of elements of all tables together.
    pub table_elements: u64,
    /// Size of all memories together in bytes.
    pub memory_bytes: u64,
    /// Page contents of all memories together in bytes, decompressed.
    pub page_bytes: u64,
    /// Number of exceptions.
    pub exceptions: u32,
    /// Length of all host sections and preserved unknown sections together in bytes.
    pub host_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total_bytes: 8 << 30,
            sections: 1024,
            module_bytes: 256 << 20,
            frames: 4 << 20,
            table_elements: 10_000_000,
            memory_bytes: 16 << 30,
            page_bytes: 8 << 30,
            exceptions: 1 << 20,
            host_bytes: 1 << 30,
        }
    }
}
