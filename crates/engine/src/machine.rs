//! What an engine must be able to do. Capture, restore and the run of entries are written once, on top of this.

use std::sync::Arc;

use dunlin_base::Value;
use dunlin_snapshot::Exception;

use crate::error::{Cause, Error, Trap};
use crate::live::Shadow;
use crate::memory::Mapping;

/// One instance in one engine.
pub(crate) trait Machine: Send {
    /// Calls a function on the current thread, whose stack is large enough.
    fn call(&mut self, callee: Callee<'_>, args: &[Value]) -> Result<End, Error>;

    /// Bytes of memory `index` of the original module.
    fn memory(&self, index: u32) -> &[u8];
    fn memory_mut(&mut self, index: u32) -> &mut [u8];
    /// Grows memory `index` by `pages` of its pages.
    fn grow_memory(&mut self, index: u32, pages: u64) -> Result<(), Cause>;
    /// Which of `pages` 4 KiB pages of memory `index` may hold something else than zeros, as ascending ranges;
    /// `None` if the engine cannot tell.
    fn populated(&self, index: u32, pages: u64) -> Option<Vec<core::ops::Range<u64>>>;
    /// Where memory `index` lies and how long it is; `None` if its base may move.
    fn fixed_memory(&self, index: u32) -> Option<(*mut u8, usize)>;

    /// All elements of a table.
    fn read_table(&mut self, table: TableId) -> Result<Vec<Value>, Cause>;
    /// Sets the elements from 0 on, growing the table if there are more.
    fn write_table(&mut self, table: TableId, elements: &[Value]) -> Result<(), Cause>;

    fn global(&mut self, index: u32) -> Result<Value, Cause>;
    fn set_global(&mut self, index: u32, value: &Value) -> Result<(), Cause>;
    fn count(&mut self) -> Option<i64>;
    fn set_count(&mut self, count: i64) -> bool;

    /// A word of the control memory.
    fn word(&self, offset: u32) -> u32;
    fn set_word(&mut self, offset: u32, value: u32);
    /// Writes the flags that polls read.
    fn set_flags(&mut self, value: u32);
    fn read_control(&self, offset: u32, length: u32) -> Option<Vec<u8>>;
    /// Writes to the control memory, growing it if needed.
    fn write_control(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Cause>;

    /// How many exceptions the values read so far refer to.
    fn exceptions(&self) -> usize;
    /// Tag and payload of one of them; the payload may refer to further ones.
    fn exception(&mut self, index: usize) -> Result<Exception, Cause>;
    /// Creates the exception to which values written from now on refer by `index`.
    fn create_exception(&mut self, index: usize, exception: &Exception) -> Result<(), Cause>;
    /// Forgets the exceptions that were numbered.
    fn forget_exceptions(&mut self);

    fn host(&mut self) -> &mut dyn crate::host::Host;
    /// Puts another host in the place of the present one, which knows imports by the same numbers.
    fn set_host(&mut self, host: Box<dyn crate::host::Host>);

    /// The mapping of memory `index`; `None` if other threads cannot reach it.
    fn mapping(&self, index: u32) -> Option<Arc<Mapping>>;
    /// From now on renews `shadow` when that is wanted and whenever the program has stopped. Only where
    /// [`Machine::mapping`] gives nothing.
    fn attach_shadow(&mut self, shadow: Arc<Shadow>);
}

/// What to call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Callee<'a> {
    /// An exported function.
    Export(&'a str),
    /// The element of the table `dunlin:resume`.
    Resume(u32),
}

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableId {
    /// Of the original module.
    Program(u32),
    /// The private table that carries live references of one type.
    References(u32),
}

/// How a call ended.
#[derive(Debug)]
pub(crate) enum End {
    Finished(Vec<Value>),
    Exited(i32),
    Trapped(Trap),
    /// The control memory says that the stack was saved.
    Stopped,
}
