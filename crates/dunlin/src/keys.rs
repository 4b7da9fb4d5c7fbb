//! Keys of owners and providers, in files.

use std::path::Path;
use std::str::FromStr;

use dunlin_attest::{Bytes, SigningKey, VerifyingKey};

use crate::failure::{Exit, Failure, Result};
use crate::file;

/// The first line of a file with a secret key, so that nobody takes it for a public one.
const TITLE: &str = "dunlin secret key, P-256, version 1";

/// Makes a key: its secret as well, for whoever keeps it.
pub(crate) fn generate() -> Result<(SigningKey, [u8; 32])> {
    // One in 2^32 numbers of this size is no key.
    for _ in 0..4 {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(Failure::because(Exit::Software, "the system gives no random numbers"))?;
        if let Ok(key) = SigningKey::from_bytes(&secret) {
            return Ok((key, secret));
        }
    }
    Err(Failure::new(Exit::Software, "the system's random numbers are broken"))
}

/// Makes a key and writes it into a file that only its owner can read.
pub(crate) fn create(path: &Path) -> Result<VerifyingKey> {
    if path.exists() {
        return Err(Failure::new(
            Exit::CannotCreate,
            format!("{} is there already; a key is not replaced", path.display()),
        ));
    }
    let (key, secret) = generate()?;
    file::write_atomically(path, format!("{TITLE}\n{}\n", Bytes::from(secret)).as_bytes())?;
    Ok(key.verifying_key())
}

/// Reads a secret key.
pub(crate) fn secret(path: &Path) -> Result<SigningKey> {
    let wrong = || {
        Failure::new(Exit::Data, format!("{} is not a secret key: make one by dunlin policy keygen", path.display()))
    };
    let bytes = file::read(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong())?;
    let (title, digits) = text.trim_end().split_once('\n').ok_or_else(wrong)?;
    let secret: Bytes = digits.parse().map_err(|_| wrong())?;
    let secret = <[u8; 32]>::try_from(secret.0.as_slice()).map_err(|_| wrong())?;
    if title != TITLE {
        return Err(wrong());
    }
    SigningKey::from_bytes(&secret).map_err(|_| wrong())
}

/// A public key on the command line: its digits, or a file that holds them.
pub(crate) fn public(text: &str) -> Result<VerifyingKey, String> {
    if let Ok(key) = VerifyingKey::from_str(text) {
        return Ok(key);
    }
    let content = std::fs::read_to_string(text)
        .map_err(|error| format!("{text:?} is neither a public key of 66 digits nor a file with one ({error})"))?;
    VerifyingKey::from_str(content.trim()).map_err(|error| format!("{text}: {error}"))
}

/// Bytes in hexadecimal on the command line. The type itself can also be made of any text's own bytes, which the parser of
/// arguments would choose.
pub(crate) fn digits(text: &str) -> Result<Bytes, String> {
    text.parse().map_err(|error: dunlin_attest::ParseHexError| error.to_string())
}
