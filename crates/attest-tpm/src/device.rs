//! Where the TPM is, and the bytes to and from it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::codes::TpmError;
use crate::wire::{HEADER, MAX_RESPONSE};

/// No command of ours takes a TPM longer than this; the slowest is making an RSA key.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a TPM is. There is no form for a network address: a TPM that is not on this machine says nothing about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A character device, best the kernel's resource manager `/dev/tpmrm0`.
    File(PathBuf),
    /// The Unix socket of a software TPM.
    Socket(PathBuf),
}

/// A text that names no TPM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no TPM: give a device such as /dev/tpmrm0, or the Unix socket of a software TPM as swtpm:path=FILE"
)]
pub struct ParseDeviceError(String);

impl FromStr for Device {
    type Err = ParseDeviceError;

    fn from_str(text: &str) -> Result<Self, ParseDeviceError> {
        let (kind, rest) = match text.split_once(':') {
            Some(("swtpm", rest)) => (Self::Socket as fn(_) -> _, rest.strip_prefix("path=")),
            Some(("unix", rest)) => (Self::Socket as fn(_) -> _, Some(rest)),
            Some(("device", rest)) => (Self::File as fn(_) -> _, Some(rest)),
            _ if text.starts_with("/dev/") => (Self::File as fn(_) -> _, Some(text)),
            _ => (Self::File as fn(_) -> _, None),
        };
        match rest {
            // A comma would begin another option, which nobody reads.
            Some(path) if path.starts_with('/') && !path.contains(',') => Ok(kind(path.into())),
            _ => Err(ParseDeviceError(text.chars().take(200).collect())),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "device:{}", path.display()),
            Self::Socket(path) => write!(f, "swtpm:path={}", path.display()),
        }
    }
}

impl Device {
    /// The path, as it was given.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Socket(path) => path,
        }
    }

    pub(crate) fn open(&self) -> Result<Channel, TpmError> {
        let missing = |source| TpmError::NoDevice { device: self.to_string(), source };
        match self {
            Self::File(path) => {
                let file = OpenOptions::new().read(true).write(true).open(path).map_err(missing)?;
                Ok(Channel { way: Way::File(file), exclusive: false })
            }
            Self::Socket(path) => {
                let stream = UnixStream::connect(path).map_err(missing)?;
                stream.set_read_timeout(Some(PATIENCE)).map_err(missing)?;
                stream.set_write_timeout(Some(PATIENCE)).map_err(missing)?;
                // A software TPM serves one client at a time, and has no resource manager before it.
                Ok(Channel { way: Way::Socket(stream), exclusive: true })
            }
        }
    }
}

/// An open way to a TPM.
#[derive(Debug)]
pub(crate) struct Channel {
    way: Way,
    /// Whether everything in the TPM that is left over was left by somebody who is gone.
    pub(crate) exclusive: bool,
}

#[derive(Debug)]
enum Way {
    File(File),
    Socket(UnixStream),
}

impl Channel {
    /// Sends one command and reads its response.
    pub(crate) fn exchange(&mut self, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        let gone = |source| TpmError::Gone { source };
        match &mut self.way {
            // The kernel takes one command per write and gives one response per read.
            Way::File(file) => {
                file.write_all(command).map_err(gone)?;
                let mut response = vec![0; MAX_RESPONSE];
                let length = file.read(&mut response).map_err(gone)?;
                response.truncate(length);
                Ok(response)
            }
            Way::Socket(stream) => {
                stream.write_all(command).map_err(gone)?;
                let mut head = [0; HEADER];
                stream.read_exact(&mut head).map_err(gone)?;
                let [_, _, a, b, c, d, ..] = head;
                let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                if !(HEADER..=MAX_RESPONSE).contains(&length) {
                    return Err(TpmError::Malformed { field: "size of the response" });
                }
                let mut response = head.to_vec();
                let rest = (length - HEADER) as u64;
                stream.take(rest).read_to_end(&mut response).map_err(gone)?;
                if response.len() < length {
                    return Err(gone(io::ErrorKind::UnexpectedEof.into()));
                }
                Ok(response)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices() {
        let good = [
            ("/dev/tpmrm0", Device::File("/dev/tpmrm0".into())),
            ("device:/dev/tpm0", Device::File("/dev/tpm0".into())),
            ("swtpm:path=/run/tpm.sock", Device::Socket("/run/tpm.sock".into())),
            ("unix:/run/tpm.sock", Device::Socket("/run/tpm.sock".into())),
        ];
        for (text, device) in good {
            assert_eq!(text.parse(), Ok(device.clone()));
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for bad in [
            "",
            "swtpm:",
            "swtpm:host=localhost,port=2321",
            "swtpm:path=relative",
            "mssim:host=localhost",
            "tcp:1.2.3.4:2321",
            "swtpm:path=/a,port=2321",
            "localhost:2321",
            "/tmp/socket",
        ] {
            assert!(bad.parse::<Device>().is_err(), "{bad}");
        }
    }
}
