//! What a keep gives up: new privileges and nearly all calls of the system before it reads its first order, and files
//! outside of its service's directories before it reads anything of a module, a client or another keep.
//!
//! Both only ever narrow, and hold for every thread that is started later. What is left over: memory, threads,
//! time, random bytes, the descriptors that the node gives, and files beneath the directories among them. No program can be
//! started, no address connected to or listened on, no other process be looked at.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, PathBeneath, RestrictionStatus, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use rustix::fs::fstat;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// The newest version of Landlock whose restrictions are asked for; an older kernel enforces those that it knows.
const LANDLOCK: ABI = ABI::V6;

/// A process cannot be confined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfineError {
    /// The filter of system calls.
    #[error("the filter of system calls cannot be installed: the kernel needs CONFIG_SECCOMP_FILTER")]
    Seccomp(#[source] seccompiler::Error),
    /// The filter cannot be made.
    #[error("the filter of system calls cannot be made for this machine")]
    Filter(#[source] seccompiler::BackendError),
    /// Landlock refuses.
    #[error("access to files cannot be restricted")]
    Landlock(#[source] landlock::RulesetError),
    /// A directory cannot be looked at.
    #[error("a directory that came with the order cannot be used")]
    Directory(#[source] std::io::Error),
    /// The keep is bound to the directories of its first service.
    #[error("this keep is bound to the directories of the order before: start another keep for this service")]
    OtherDirectories,
}

/// What this process gives up. Everything of it applies to the calling thread and those that it starts, so both methods
/// are called by the first thread before there is another one.
#[derive(Debug)]
pub struct Confinement {
    enforced: bool,
    /// Device, inode and whether it is writable, of each directory.
    within: Option<Vec<(u64, u64, bool)>>,
}

impl Confinement {
    /// Everything, for a process that is nothing but a keep.
    pub const fn full() -> Self {
        Self { enforced: true, within: None }
    }

    /// Nothing: for a keep inside a process that must do more than keep, such as a test.
    pub const fn none() -> Self {
        Self { enforced: false, within: None }
    }

    /// Gives up privileges and system calls.
    pub(crate) fn begin(&mut self) -> Result<(), ConfineError> {
        if !self.enforced {
            return Ok(());
        }
        // What is looked up once in files of the system is looked up before they cannot be opened any more.
        dunlin_engine::open_memory_map();
        let _page = rustix::param::page_size();
        for filter in [threads_by_old_call()?, allowed()?] {
            // This also takes away the right to new privileges.
            apply_filter(&filter).map_err(ConfineError::Seccomp)?;
        }
        Ok(())
    }

    /// Gives up all files but those beneath these directories. What is missing of that is told.
    pub(crate) fn within<'a>(
        &mut self,
        states: &'a OwnedFd,
        others: impl Iterator<Item = (&'a OwnedFd, bool)>,
    ) -> Result<Vec<String>, ConfineError> {
        if !self.enforced {
            return Ok(Vec::new());
        }
        let directories: Vec<(&OwnedFd, bool)> = core::iter::once((states, true)).chain(others).collect();
        let mut named = Vec::new();
        for (directory, writable) in &directories {
            let stat = fstat(directory).map_err(|errno| ConfineError::Directory(errno.into()))?;
            named.push((stat.st_dev, stat.st_ino, *writable));
        }
        if let Some(before) = &self.within {
            let known = named.iter().all(|directory| before.contains(directory));
            return if known { Ok(Vec::new()) } else { Err(ConfineError::OtherDirectories) };
        }
        let status = restrict(&directories).map_err(ConfineError::Landlock)?;
        self.within = Some(named);
        Ok(match status.ruleset {
            RulesetStatus::FullyEnforced => Vec::new(),
            RulesetStatus::PartiallyEnforced => {
                vec!["this kernel's Landlock is older than the keep: it restricts files, and less besides".to_owned()]
            }
            RulesetStatus::NotEnforced => {
                vec!["this kernel has no Landlock: only system calls are restricted, not which files".to_owned()]
            }
        })
    }
}

fn restrict(directories: &[(&OwnedFd, bool)]) -> Result<RestrictionStatus, landlock::RulesetError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?;
    for (directory, writable) in directories {
        let all = if *writable { AccessFs::from_all(LANDLOCK) } else { AccessFs::from_read(LANDLOCK) };
        // Nothing in them is ever a program to start, nor a device.
        let never = AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::MakeSock;
        rules = rules.add_rule(PathBeneath::new(directory, all & !never))?;
    }
    rules.restrict_self()
}

/// What the system told the process at its start (`linux/prctl.h`).
const PR_GET_AUXV: libc::c_int = 0x4155_5856;

/// Calls without conditions.
const CALLS: &[i64] = &[
    // Reading and writing what is open.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_lseek,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_ioctl,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_copy_file_range,
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    // Files beneath the service's directories: which those are is Landlock's part.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_utimensat,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_getcwd,
    // Sockets that are there, and pairs of new ones.
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_socketpair,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_msync,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_memfd_create,
    libc::SYS_membarrier,
    libc::SYS_userfaultfd,
    libc::SYS_pkey_alloc,
    libc::SYS_pkey_free,
    libc::SYS_pkey_mprotect,
    // Threads, signals and time of this process.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    // Giving up still more.
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
];

/// Older forms of some of those, which only some machines have.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_time,
    libc::SYS_getdents,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// Threads are started by the call whose flags a filter can see.
fn threads_by_old_call() -> Result<BpfProgram, ConfineError> {
    let calls = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    program(calls, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))
}

fn allowed() -> Result<BpfProgram, ConfineError> {
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> =
        CALLS.iter().chain(OLDER).map(|call| (*call, Vec::new())).collect();
    let argument = |index, length, operator, value| {
        let condition = SeccompCondition::new(index, length, operator, value).map_err(ConfineError::Filter)?;
        SeccompRule::new(vec![condition]).map_err(ConfineError::Filter)
    };
    let equal = |index, value| argument(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    // Threads, never processes.
    let thread = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;
    calls.insert(libc::SYS_clone, vec![argument(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), thread)?]);
    // The other filter has the last word.
    calls.insert(libc::SYS_clone3, Vec::new());
    let names = [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_NO_NEW_PRIVS, libc::PR_SET_VMA, PR_GET_AUXV];
    let names = names.into_iter().map(|option| equal(0, option.unsigned_abs().into()));
    calls.insert(libc::SYS_prctl, names.collect::<Result<_, _>>()?);
    // Signals for this process only, as an abort sends them.
    let own = u64::from(std::process::id());
    calls.insert(libc::SYS_tgkill, vec![equal(0, own)?]);
    calls.insert(libc::SYS_kill, vec![equal(0, own)?]);
    // Limits are read, never set.
    calls.insert(libc::SYS_prlimit64, vec![argument(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?]);
    program(calls, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

fn program(
    calls: BTreeMap<i64, Vec<SeccompRule>>,
    others: SeccompAction,
    these: SeccompAction,
) -> Result<BpfProgram, ConfineError> {
    let machine = std::env::consts::ARCH.try_into().map_err(ConfineError::Filter)?;
    let filter = SeccompFilter::new(calls, others, these, machine).map_err(ConfineError::Filter)?;
    filter.try_into().map_err(ConfineError::Filter)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{self, ErrorKind};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    /// Where the confined process is to be, if this one is it.
    const WITHIN: &str = "DUNLIN_CONFINED_WITHIN";

    fn refused<T>(what: &str, done: io::Result<T>) {
        let error = done.err().unwrap_or_else(|| panic!("{what} is possible"));
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{what}: {error}");
    }

    /// Confinement cannot be taken back, so it is tried out in a process of its own: this test program, once more.
    #[test]
    fn a_confined_process_reaches_its_directories_and_nothing_else() {
        let directory = std::env::temp_dir().join(format!("dunlin-confine-{}", std::process::id()));
        for part in ["own", "mount", "elsewhere"] {
            fs::create_dir_all(directory.join(part)).unwrap();
            fs::write(directory.join(part).join("file"), b"contents").unwrap();
        }
        std::os::unix::fs::symlink(directory.join("elsewhere/file"), directory.join("own/link")).unwrap();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let ran = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "confine::tests::inside", "--nocapture", "--ignored"])
            .env(WITHIN, &directory)
            .env("DUNLIN_CONFINED_SERVER", server.local_addr().unwrap().to_string())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success() && said.contains("all of it is refused"), "{said}");
        assert_eq!(fs::read(directory.join("elsewhere/file")).unwrap(), b"contents");
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    #[ignore = "the process that the test before starts"]
    fn inside() {
        let Some(directory) = std::env::var_os(WITHIN).map(PathBuf::from) else { return };
        let server = std::env::var("DUNLIN_CONFINED_SERVER").unwrap();
        let open = |part: &str| OwnedFd::from(File::open(directory.join(part)).unwrap());
        let (own, mount, elsewhere) = (open("own"), open("mount"), open("elsewhere"));
        let parent = rustix::process::getppid().unwrap();
        let mut confinement = Confinement::full();
        confinement.begin().unwrap();
        refused("a program", Command::new("/bin/true").spawn().map(drop));
        refused("a connection", TcpStream::connect(&server).map(drop));
        refused("a listener", TcpListener::bind("127.0.0.1:0").map(drop));
        refused("a datagram", UdpSocket::bind("127.0.0.1:0").map(drop));
        refused("another process", rustix::process::test_kill_process(parent).map_err(io::Error::from));
        for note in confinement.within(&own, [(&mount, false)].into_iter()).unwrap() {
            println!("{note}");
        }
        assert_eq!(fs::read(directory.join("own/file")).unwrap(), b"contents");
        fs::write(directory.join("own/new"), b"new").unwrap();
        assert_eq!(fs::read(directory.join("mount/file")).unwrap(), b"contents");
        refused("writing where it may only read", fs::write(directory.join("mount/file"), b"changed"));
        refused("making a file there", fs::write(directory.join("mount/new"), b"new"));
        refused("a file elsewhere", fs::read(directory.join("elsewhere/file")));
        refused("a file by a way around", fs::read(directory.join("own/../elsewhere/file")));
        refused("the users of the system", fs::read("/etc/passwd"));
        refused("the memory of the parent", File::open(format!("/proc/{}/mem", parent.as_raw_nonzero())));
        refused("a file by a link", fs::read(directory.join("own/link")));
        refused("a name outside", fs::rename(directory.join("own/file"), directory.join("elsewhere/taken")));
        // What it needs is there: threads, pairs of sockets, and what the descriptors reach.
        std::thread::spawn(|| UnixStream::pair().unwrap()).join().unwrap();
        refused("a file elsewhere, for a thread", std::thread::spawn(|| fs::read("/etc/passwd")).join().unwrap());
        let other = confinement.within(&elsewhere, std::iter::empty());
        assert!(matches!(other, Err(ConfineError::OtherDirectories)), "{other:?}");
        println!("all of it is refused");
    }
}
