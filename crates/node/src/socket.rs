//! Unix sockets at paths of any length.
//!
//! An address of a Unix socket holds 107 bytes of path, and folders of services lie deeper than that on some machines. A
//! longer path is reached through a descriptor of its folder: `/proc/self/fd/N/name` names the same file.

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// What the kernel takes: `sun_path` has 108 bytes, the last of which is zero.
const LONGEST: usize = 107;

/// Makes a Unix socket for this user only. A file that an earlier process left behind is replaced.
///
/// # Errors
/// If another process listens there, or the system refuses.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let short = Short::of(path)?;
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        if UnixStream::connect(&*short.path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(&*short.path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to a Unix socket. Only the local system is asked, so that a caller on a runtime may call it: a listener whose queue
/// is full is the one thing that makes it wait.
///
/// # Errors
/// If nobody listens there.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(&*Short::of(path)?.path)
}

/// The same for a stream of the runtime.
pub(crate) fn connect_async(path: &Path) -> io::Result<tokio::net::UnixStream> {
    let stream = connect(path)?;
    stream.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(stream)
}

/// A path that fits into an address, good while this lives.
struct Short<'a> {
    path: Cow<'a, Path>,
    _folder: Option<OwnedFd>,
}

impl<'a> Short<'a> {
    fn of(path: &'a Path) -> io::Result<Self> {
        if path.as_os_str().as_bytes().len() <= LONGEST {
            return Ok(Self { path: Cow::Borrowed(path), _folder: None });
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a file"));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())?;
        let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
        Ok(Self { path: Cow::Owned(short), _folder: Some(folder) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_any_length_serve() {
        let name = format!("dunlin-socket-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        for depth in [0, 1, 5, 20] {
            let folder = (0..depth).fold(root.clone(), |path, _| path.join("a-folder-with-a-long-name"));
            std::fs::create_dir_all(&folder).unwrap();
            let path = folder.join("a.sock");
            assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
            let listener = bind(&path).unwrap();
            assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            connect(&path).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            drop(listener);
            assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
            bind(&path).unwrap();
        }
        std::fs::remove_dir_all(root).unwrap();
    }
}
