//! A root or a machine's key in a file that only its owner can read: the simplest way to keep one, and no protection
//! from whoever controls the machine.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::Error;
use crate::keys::{LocalKey, ServiceRoot};
use crate::memory::KEY;

const TITLE: &str = "dunlin secret root, version 1\n";

impl ServiceRoot {
    /// Makes a root and writes it into a new file.
    ///
    /// # Errors
    /// [`Error::KeyFile`], also when the file is there; [`Error::Random`].
    pub fn create_file(path: &Path) -> Result<Self, Error> {
        let root = Self::generate()?;
        write(path, root.bytes())?;
        Ok(root)
    }

    /// Reads a root from a file.
    ///
    /// # Errors
    /// [`Error::KeyFile`].
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        read(path).map(|bytes| Self::from_bytes(&bytes))
    }
}

impl LocalKey {
    /// The key in a file, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::KeyFile`], [`Error::Random`].
    pub fn in_file(path: &Path) -> Result<Self, Error> {
        if !path.exists() {
            let key = Self::generate()?;
            write(path, key.expose())?;
            return Ok(key);
        }
        read(path).map(|bytes| Self::from_bytes(&bytes))
    }
}

fn problem(path: &Path, problem: impl Into<String>) -> Error {
    Error::KeyFile { path: path.to_owned(), problem: problem.into() }
}

fn write(path: &Path, key: &[u8; KEY]) -> Result<(), Error> {
    let mut text = Zeroizing::new(TITLE.to_owned());
    // Room for all of it at once: a string that grows leaves copies behind.
    text.reserve_exact(2 * KEY + 1);
    for byte in key {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(nibble.into(), 16).unwrap_or_default());
        }
    }
    text.push('\n');
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| problem(path, error.to_string()))
}

fn read(path: &Path) -> Result<Zeroizing<[u8; KEY]>, Error> {
    let mut file = File::open(path).map_err(|error| problem(path, error.to_string()))?;
    let mode = file.metadata().map_err(|error| problem(path, error.to_string()))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(problem(path, "others may read or change it; take that away with chmod 600 and make a new key"));
    }
    let length = TITLE.len() + 2 * KEY + 1;
    let mut text = Zeroizing::new(vec![0; length + 1]);
    let mut filled = 0;
    while let Some(rest) = text.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest).map_err(|error| problem(path, error.to_string()))? {
            0 => break,
            count => filled += count,
        }
    }
    let digits = text.get(..filled).and_then(|text| text.strip_prefix(TITLE.as_bytes()));
    let digits = digits.and_then(|digits| digits.strip_suffix(b"\n")).filter(|digits| digits.len() == 2 * KEY);
    let digits = digits.ok_or_else(|| problem(path, "it is not a secret root of this program"))?;
    let mut key = Zeroizing::new([0; KEY]);
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            let nibble = char::from(*digit).to_digit(16).ok_or_else(|| problem(path, "it has other than digits"))?;
            *byte = *byte << 4 | nibble as u8;
        }
    }
    Ok(key)
}
