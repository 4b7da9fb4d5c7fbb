//! Where roots and secrets are kept: a folder for each service, with its root in a file that only its owner can read and
//! its secrets sealed under that root.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use dunlin_attest::Policy;
use dunlin_base::Digest;
use dunlin_handover::codec::{DecodeError, Reader, Wire, Writer};
use dunlin_handover::{Key, ServiceId};
use dunlin_seal::{Kind, Label, ServiceRoot};
use zeroize::Zeroizing;

use crate::error::VaultError;
use crate::message::MAX_SECRET;
use crate::server::Service;

/// Most modules in a rule.
const MAX_MODULES: usize = 256;

/// Which instances get a secret, besides what the policy demands of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecretRule {
    /// The modules. None means every module of the policy.
    pub modules: Vec<Digest>,
}

impl SecretRule {
    /// Whether an instance that runs `module` gets it.
    pub fn permits(&self, module: &Digest) -> bool {
        self.modules.is_empty() || self.modules.contains(module)
    }
}

impl Wire for SecretRule {
    const WHAT: &'static str = "rule of a secret";

    fn write(&self, out: &mut Writer) {
        out.list(&self.modules);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.list("modules", MAX_MODULES).map(|modules| Self { modules })
    }
}

/// The folder of a broker.
#[derive(Debug)]
pub struct Vault {
    path: PathBuf,
}

impl Vault {
    /// Opens the folder, or makes it.
    ///
    /// # Errors
    /// [`VaultError::Io`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, VaultError> {
        let vault = Self { path: path.into() };
        folder(&vault.path)?;
        Ok(vault)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The root of a service, made the first time.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn root(&self, service: ServiceId) -> Result<ServiceRoot, VaultError> {
        let path = self.folder_of(service)?.join("root");
        Ok(if path.exists() { ServiceRoot::from_file(&path)? } else { ServiceRoot::create_file(&path)? })
    }

    /// Keeps a secret for a service, in place of one of the same name.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn put(&self, service: ServiceId, name: &str, rule: &SecretRule, secret: &[u8]) -> Result<(), VaultError> {
        check(name)?;
        if secret.len() > MAX_SECRET {
            return Err(VaultError::TooLong(secret.len()));
        }
        let rule = rule.to_bytes();
        let mut plain = Zeroizing::new(Vec::with_capacity(4 + rule.len() + secret.len()));
        plain.extend_from_slice(&(rule.len() as u32).to_le_bytes());
        plain.extend_from_slice(&rule);
        plain.extend_from_slice(secret);
        let sealed = self.root(service)?.secrets(service.0).seal(&label(name), &plain)?;
        let folder = self.secrets_of(service)?;
        let (path, part) = (folder.join(name), folder.join(format!(".{name}.part")));
        let write = || {
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
            file.write_all(&sealed)?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
            fs::File::open(&folder)?.sync_all()
        };
        write().map_err(|source| VaultError::Io { path: path.clone(), source })
    }

    /// Everything that a broker needs of a service.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn service(&self, service: ServiceId, policy: Policy, ledger: Key) -> Result<Service, VaultError> {
        let root = self.root(service)?;
        let folder = self.secrets_of(service)?;
        let io = |source| VaultError::Io { path: folder.clone(), source };
        let mut secrets = BTreeMap::new();
        for entry in fs::read_dir(&folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if check(&name).is_err() {
                continue;
            }
            let sealed = fs::read(entry.path()).map_err(io)?;
            let plain = Zeroizing::new(root.secrets(service.0).open(&label(&name), &sealed)?);
            let (rule, secret) = split(&plain).ok_or_else(|| VaultError::Rule(name.clone()))?;
            secrets.insert(name, (rule, Zeroizing::new(secret.to_vec())));
        }
        Ok(Service { policy, ledger, root, secrets })
    }

    fn folder_of(&self, service: ServiceId) -> Result<PathBuf, VaultError> {
        let path = self.path.join(service.to_string());
        folder(&path)?;
        Ok(path)
    }

    fn secrets_of(&self, service: ServiceId) -> Result<PathBuf, VaultError> {
        let path = self.folder_of(service)?.join("secrets");
        folder(&path)?;
        Ok(path)
    }
}

fn split(plain: &[u8]) -> Option<(SecretRule, &[u8])> {
    let (length, rest) = plain.split_first_chunk::<4>()?;
    let (rule, secret) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some((SecretRule::from_bytes(rule).ok()?, secret))
}

fn label(name: &str) -> Label<'_> {
    Label { kind: Kind::Secret, name, version: 1 }
}

fn folder(path: &Path) -> Result<(), VaultError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| VaultError::Io { path: path.to_owned(), source })
}

fn check(name: &str) -> Result<(), VaultError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let good = (1..=64).contains(&name.len())
        && name.bytes().all(|byte| plain(byte) || matches!(byte, b'.' | b'-'))
        && name.bytes().next().is_some_and(plain);
    if good { Ok(()) } else { Err(VaultError::Name(name.chars().take(64).collect())) }
}
