//! Software TPMs for tests, each a process with a directory of its own.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "shared by test programs that each use a part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use dunlin_attest_tpm::{Device, ProviderCa, Tpm};

/// 2026-11-20 or now, whichever is later: software TPMs get certificates that begin now.
pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs()
}

/// A directory that goes with the test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        // Paths of sockets have at most 107 bytes, so it is not in the target directory.
        let path = std::env::temp_dir().join(format!("dunlin-tpm-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A provider's certificate authority for the software TPMs that it makes.
pub struct Authority {
    directory: PathBuf,
}

impl Authority {
    pub fn new(scratch: &Scratch, name: &str) -> Self {
        let directory = scratch.path(name);
        fs::create_dir_all(&directory).expect("a directory");
        let path = |file: &str| directory.join(file).display().to_string();
        let conf = format!(
            "statedir = {}\nsigningkey = {}\nissuercert = {}\ncertserial = {}\n",
            directory.display(),
            path("signkey.pem"),
            path("issuercert.pem"),
            path("certserial"),
        );
        fs::write(directory.join("localca.conf"), conf).expect("written");
        let options = "--platform-manufacturer Dunlin\n--platform-version 1\n--platform-model test\n";
        fs::write(directory.join("localca.options"), options).expect("written");
        let setup = format!(
            "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {}\ncreate_certs_tool_options = {}\nactive_pcr_banks = sha256\n",
            path("localca.conf"),
            path("localca.options"),
        );
        fs::write(directory.join("setup.conf"), setup).expect("written");
        Self { directory }
    }

    /// The certificate that issues those of endorsement keys. It is there after the first TPM was made.
    pub fn certificates(&self) -> ProviderCa {
        let pem = fs::read(self.directory.join("issuercert.pem")).expect("the authority's certificate");
        ProviderCa::parse(&pem).expect("an authority")
    }

    pub fn issuer_path(&self) -> PathBuf {
        self.directory.join("issuercert.pem")
    }
}

/// A running software TPM.
pub struct SoftwareTpm {
    child: Option<Child>,
    state: PathBuf,
    socket: PathBuf,
}

impl SoftwareTpm {
    /// A TPM without certificates, which is enough for most tests.
    pub fn bare(scratch: &Scratch, name: &str) -> Self {
        let state = scratch.path(&format!("{name}-state"));
        fs::create_dir_all(&state).expect("a directory");
        let mut tpm = Self { child: None, state, socket: scratch.path(&format!("{name}.sock")) };
        tpm.start();
        tpm
    }

    /// A TPM as it leaves its maker: with an endorsement key and its certificate.
    pub fn made_by(scratch: &Scratch, name: &str, authority: &Authority, ecc: bool) -> Self {
        let state = scratch.path(&format!("{name}-state"));
        fs::create_dir_all(&state).expect("a directory");
        let mut command = Command::new("swtpm_setup");
        command.args(["--tpm2", "--create-ek-cert", "--overwrite", "--tpmstate"]).arg(&state);
        command.arg("--config").arg(authority.directory.join("setup.conf"));
        if ecc {
            command.arg("--ecc");
        }
        let output = ran(command.output(), "swtpm_setup", "swtpm-tools");
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "swtpm_setup failed:\n{said}\n{complained}");
        let mut tpm = Self { child: None, state, socket: scratch.path(&format!("{name}.sock")) };
        tpm.start();
        tpm
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let _ = fs::remove_file(&self.socket);
        let path = |option: &str, path: &Path| format!("type=unixio,path={}{option}", path.display());
        let mut command = Command::new("swtpm");
        command.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"]);
        command.arg(format!("dir={}", self.state.display()));
        command.args(["--server", &path("", &self.socket)]);
        command.args(["--ctrl", &path(".ctrl", &self.socket)]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn();
        self.child = Some(ran(child, "swtpm", "swtpm"));
        let patience = Instant::now() + Duration::from_secs(20);
        // The socket is there before the TPM has started.
        while Tpm::open(&self.device()).and_then(|mut tpm| tpm.random(1)).is_err() {
            let over = self.child.as_mut().and_then(|child| child.try_wait().expect("a child"));
            assert!(over.is_none() && Instant::now() < patience, "swtpm does not listen: {over:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// Keeps a copy of all that the TPM knows.
    pub fn copy_state(&self, to: &Path) {
        copy(&self.state, to);
    }

    /// Puts an older copy back, with the TPM off.
    pub fn restore_state(&mut self, from: &Path) {
        self.kill();
        let _ = fs::remove_dir_all(&self.state);
        copy(from, &self.state);
        self.start();
    }

    pub fn device(&self) -> Device {
        format!("swtpm:path={}", self.socket.display()).parse().expect("a device")
    }

    pub fn open(&self) -> Tpm {
        Tpm::open(&self.device()).expect("the TPM is there")
    }
}

impl Drop for SoftwareTpm {
    fn drop(&mut self) {
        self.kill();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_file() && entry.file_name() != ".lock" {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
}

fn ran<T>(outcome: std::io::Result<T>, program: &str, package: &str) -> T {
    outcome.unwrap_or_else(|error| {
        panic!("{program} cannot be run ({error}): install the Debian package {package}, as .ci/run does")
    })
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
