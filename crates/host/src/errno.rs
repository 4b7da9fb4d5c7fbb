//! The error numbers of preview 1, and which of them an operating system's error becomes.

use std::io;

/// An error number of preview 1. The names are those of the WITX definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Errno {
    TooBig = 1,
    Acces = 2,
    Addrinuse = 3,
    Addrnotavail = 4,
    Again = 6,
    Already = 7,
    Badf = 8,
    Busy = 10,
    Connaborted = 13,
    Connrefused = 14,
    Connreset = 15,
    Deadlk = 16,
    Dquot = 19,
    Exist = 20,
    Fault = 21,
    Fbig = 22,
    Hostunreach = 23,
    Ilseq = 25,
    Inprogress = 26,
    Intr = 27,
    Inval = 28,
    Io = 29,
    Isdir = 31,
    Loop = 32,
    Mfile = 33,
    Mlink = 34,
    Msgsize = 35,
    Nametoolong = 37,
    Nfile = 41,
    Nobufs = 42,
    Nodev = 43,
    Noent = 44,
    Nolck = 46,
    Nomem = 48,
    Nospc = 51,
    Notconn = 53,
    Notdir = 54,
    Notempty = 55,
    Notsock = 57,
    Notsup = 58,
    Notty = 59,
    Nxio = 60,
    Overflow = 61,
    Perm = 63,
    Pipe = 64,
    Rofs = 69,
    Spipe = 70,
    Stale = 72,
    Timedout = 73,
    Txtbsy = 74,
    Xdev = 75,
    Notcapable = 76,
}

impl From<rustix::io::Errno> for Errno {
    fn from(error: rustix::io::Errno) -> Self {
        use rustix::io::Errno as Os;
        match error {
            Os::ACCESS => Self::Acces,
            Os::ADDRINUSE => Self::Addrinuse,
            Os::ADDRNOTAVAIL => Self::Addrnotavail,
            Os::AGAIN => Self::Again,
            Os::ALREADY => Self::Already,
            Os::BADF => Self::Badf,
            Os::BUSY => Self::Busy,
            Os::CONNABORTED => Self::Connaborted,
            Os::CONNREFUSED => Self::Connrefused,
            Os::CONNRESET => Self::Connreset,
            Os::DEADLK => Self::Deadlk,
            Os::DQUOT => Self::Dquot,
            Os::EXIST => Self::Exist,
            Os::FBIG => Self::Fbig,
            Os::HOSTUNREACH => Self::Hostunreach,
            Os::ILSEQ => Self::Ilseq,
            Os::INPROGRESS => Self::Inprogress,
            Os::INTR => Self::Intr,
            Os::INVAL => Self::Inval,
            Os::ISDIR => Self::Isdir,
            Os::LOOP => Self::Loop,
            Os::MFILE => Self::Mfile,
            Os::MLINK => Self::Mlink,
            Os::MSGSIZE => Self::Msgsize,
            Os::NAMETOOLONG => Self::Nametoolong,
            Os::NFILE => Self::Nfile,
            Os::NOBUFS => Self::Nobufs,
            Os::NODEV => Self::Nodev,
            Os::NOENT => Self::Noent,
            Os::NOLCK => Self::Nolck,
            Os::NOMEM => Self::Nomem,
            Os::NOSPC => Self::Nospc,
            Os::NOTCONN => Self::Notconn,
            Os::NOTDIR => Self::Notdir,
            Os::NOTEMPTY => Self::Notempty,
            Os::NOTSOCK => Self::Notsock,
            // The same number as `ENOTSUP` on Linux.
            Os::OPNOTSUPP | Os::NOSYS => Self::Notsup,
            Os::NOTTY => Self::Notty,
            Os::NXIO => Self::Nxio,
            Os::OVERFLOW => Self::Overflow,
            Os::PERM => Self::Perm,
            Os::PIPE => Self::Pipe,
            Os::ROFS => Self::Rofs,
            Os::SPIPE => Self::Spipe,
            Os::STALE => Self::Stale,
            Os::TIMEDOUT => Self::Timedout,
            Os::TXTBSY => Self::Txtbsy,
            Os::XDEV => Self::Xdev,
            _ => Self::Io,
        }
    }
}

impl From<&dunlin_store::Error> for Errno {
    fn from(error: &dunlin_store::Error) -> Self {
        use dunlin_store::Error as Volume;
        match error {
            Volume::NotFound => Self::Noent,
            Volume::Exists => Self::Exist,
            Volume::NotDirectory => Self::Notdir,
            Volume::IsDirectory => Self::Isdir,
            Volume::NotEmpty => Self::Notempty,
            Volume::NoSpace { .. } => Self::Nospc,
            Volume::Loop { .. } => Self::Loop,
            Volume::NameTooLong => Self::Nametoolong,
            Volume::Invalid(_) => Self::Inval,
            Volume::NotPermitted(_) => Self::Perm,
            Volume::BadHandle => Self::Badf,
            Volume::FileTooLarge => Self::Fbig,
            Volume::TooManyLinks => Self::Mlink,
            Volume::TooManyOpen { .. } => Self::Nfile,
            Volume::Busy => Self::Busy,
            Volume::Store(error) if error.is_full() => Self::Nospc,
            _ => Self::Io,
        }
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        if let Some(os) = rustix::io::Errno::from_io_error(&error) {
            return os.into();
        }
        match error.kind() {
            io::ErrorKind::NotFound => Self::Noent,
            // What a path that leads out of its directory gives.
            io::ErrorKind::PermissionDenied => Self::Perm,
            io::ErrorKind::AlreadyExists => Self::Exist,
            io::ErrorKind::InvalidInput => Self::Inval,
            _ => Self::Io,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_keep_their_meaning() {
        let of = |os: rustix::io::Errno| Errno::from(io::Error::from(os)) as u16;
        assert_eq!(of(rustix::io::Errno::NOENT), 44);
        assert_eq!(of(rustix::io::Errno::NOTSUP), 58);
        assert_eq!(of(rustix::io::Errno::XDEV), 75);
        assert_eq!(of(rustix::io::Errno::from_raw_os_error(4000)), 29, "unknown ones are I/O errors");
        assert_eq!(Errno::from(io::Error::new(io::ErrorKind::PermissionDenied, "outside")), Errno::Perm);
    }
}
