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
    #[link_name = "migrate-weakly"]
    fn raw_migrate_weakly(destination: *const u8, length: usize, data: *const u8, size: usize) -> i32;
    #[link_name = "luggage"]
    fn raw_luggage(buffer: *mut u8, length: usize, written: *mut u32) -> i32;
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
    /// More than a mebibyte to take along.
    TooMuch,
    /// Another error number of WASI preview 1.
    Other(i32),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid => f.write_str("the destination is empty or longer than 256 bytes"),
            Self::Unsupported => f.write_str("nothing moves programs here"),
            Self::Unreachable => f.write_str("the move was refused, or it failed"),
            Self::TooMuch => f.write_str("more than a mebibyte cannot be taken along"),
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

/// Has a new instance of this program begin at the node `destination`, in its [`Agent::arrive`], with these bytes and nothing
/// else of this one, which ends. Returns only if it does not come to that.
pub fn migrate_weakly(destination: &str, luggage: &[u8]) -> Error {
    // SAFETY: the pointers and lengths are those of values that live until the call returns; the host only reads them.
    let number =
        unsafe { raw_migrate_weakly(destination.as_ptr(), destination.len(), luggage.as_ptr(), luggage.len()) };
    match number {
        1 => Error::TooMuch,
        23 => Error::Unreachable,
        28 => Error::Invalid,
        58 => Error::Unsupported,
        number => Error::Other(number),
    }
}

/// What the instance before this one packed; `None` for one that nobody sent.
pub fn luggage() -> Option<Vec<u8>> {
    let (mut bytes, mut written) = (Vec::new(), 0);
    loop {
        // SAFETY: the host writes at most `bytes.len()` bytes to the buffer and one number to `written`, both of which live
        // until the call returns.
        if unsafe { raw_luggage(bytes.as_mut_ptr(), bytes.len(), &mut written) } != 0 {
            return None;
        }
        if bytes.len() == written as usize {
            return Some(bytes);
        }
        bytes.resize(written as usize, 0);
    }
}

/// A program that travels weakly: it says what it takes along, and begins anew with that.
pub trait Agent: Sized {
    /// What goes along, at most a mebibyte.
    fn depart(&self) -> Vec<u8>;

    /// Begins at another node with what the instance before this one packed.
    fn arrive(luggage: Vec<u8>);

    /// Leaves for the node `destination`. Returns only if it does not come to that.
    fn leave(&self, destination: &str) -> Error {
        migrate_weakly(destination, &self.depart())
    }
}

/// Exports what a new instance begins with: `dunlin::agent!(Traveller);` in a program whose `Traveller` is an [`Agent`].
#[macro_export]
macro_rules! agent {
    ($agent:ty) => {
        #[unsafe(export_name = "arrive")]
        extern "C" fn __dunlin_arrive() {
            <$agent as $crate::Agent>::arrive($crate::luggage().unwrap_or_default());
        }
    };
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
