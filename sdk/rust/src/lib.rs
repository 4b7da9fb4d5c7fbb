//! What programs on Dunlin can ask of the place where they are: where that is, and to be elsewhere. For
//! `wasm32-wasip1`. It must never need anything but what it imports.
//!
//! ```no_run
//! for node in ["north", "east", "south"] {
//!     match dunlin::migrate(node) {
//!         Ok(()) => println!("I am at {}", dunlin::where_am_i()),
//!         Err(error) => eprintln!("{node}: {error}"),
//!     }
//! }
//! ```

use std::fmt;

#[link(wasm_import_module = "dunlin:agent/mobility")]
unsafe extern "C" {
    #[link_name = "migrate"]
    fn raw_migrate(destination: *const u8, length: usize) -> i32;
    #[link_name = "where-am-i"]
    fn raw_where_am_i(buffer: *mut u8, length: usize, written: *mut u32) -> i32;
}

/// Why a program is not where it wished to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The destination is empty or longer than 256 bytes.
    Invalid,
    /// Nothing moves programs here.
    Unsupported,
    /// The move was refused, or it failed: the program is where it was.
    Unreachable,
    /// Another error number of WASI preview 1.
    Other(i32),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid => f.write_str("the destination is empty or longer than 256 bytes"),
            Self::Unsupported => f.write_str("nothing moves programs here"),
            Self::Unreachable => f.write_str("the move was refused, or it failed"),
            Self::Other(number) => write!(f, "error {number}"),
        }
    }
}

impl std::error::Error for Error {}

/// Moves this program to the node `destination`. Returns there, with all of the program's state, or here with the error.
///
/// # Errors
/// [`Error`].
pub fn migrate(destination: &str) -> Result<(), Error> {
    // SAFETY: the pointer and length are those of a text that lives until the call returns; the host only reads it.
    match unsafe { raw_migrate(destination.as_ptr(), destination.len()) } {
        0 => Ok(()),
        23 => Err(Error::Unreachable),
        28 => Err(Error::Invalid),
        58 => Err(Error::Unsupported),
        number => Err(Error::Other(number)),
    }
}

/// The name of the node where the program is; empty where it has none.
pub fn where_am_i() -> String {
    let (mut name, mut written) = (vec![0; 256], 0);
    // SAFETY: the host writes at most `name.len()` bytes to the buffer and one number to `written`, both of which live
    // until the call returns.
    if unsafe { raw_where_am_i(name.as_mut_ptr(), name.len(), &mut written) } != 0 {
        return String::new();
    }
    name.truncate(written as usize);
    String::from_utf8_lossy(&name).into_owned()
}
