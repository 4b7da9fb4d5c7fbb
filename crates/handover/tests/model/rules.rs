//! The rules, each of which can be dropped.

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Rules {
    /// R1.
    pub(crate) read_before_run: bool,
    /// R2.
    pub(crate) effects_after_commit: bool,
    /// R3.
    pub(crate) seal_before_commit: bool,
    /// R4, the source's part and the ledger's.
    pub(crate) transfer_after_staged: bool,
    /// R4, the destination's part.
    pub(crate) staged_after_seal: bool,
    /// R5.
    pub(crate) resume_on_holder_platform: bool,
    /// R6.
    pub(crate) abort_takes_epoch: bool,
    /// R7.
    pub(crate) destination_reads_ledger: bool,
    /// R8.
    pub(crate) commit_is_checked: bool,
}

impl Rules {
    pub(crate) const ALL: Self = Self {
        read_before_run: true,
        effects_after_commit: true,
        seal_before_commit: true,
        transfer_after_staged: true,
        staged_after_seal: true,
        resume_on_holder_platform: true,
        abort_takes_epoch: true,
        destination_reads_ledger: true,
        commit_is_checked: true,
    };
}
