//! Linux's configfs-tsm (Documentation/ABI/testing/configfs-tsm): a directory per request, into which the report data
//! is written and from which the evidence is read. `generation` counts writes, so that a reader sees whether somebody
//! else wrote in between.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dunlin_attest::{
    AmdCollateral, Attester, AttesterError, Collateral, Endorsements, Evidence, ReportData, Technology,
};

use crate::certificates;
use crate::files::{Files, SystemFiles};

/// Where the kernel shows it.
const ROOT: &str = "/sys/kernel/config/tsm/report";
/// The kernel's own limit for one blob.
const MAX_BLOB: u64 = 32 * 1024;
const MAX_TEXT: u64 = 256;
/// An SNP report.
const SNP_REPORT: usize = 1184;
/// How often a request is made that somebody else disturbed, and the pause before the first repetition.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(1);

/// An SEV-SNP or TDX guest, as which this program runs.
#[derive(Debug)]
pub struct TsmAttester {
    technology: Technology,
    root: PathBuf,
    files: Box<dyn Files>,
    /// What came with the last report: the host's certificates, which prove nothing by themselves.
    certificates: Mutex<Option<AmdCollateral>>,
}

impl TsmAttester {
    /// An SEV-SNP guest.
    ///
    /// # Errors
    ///
    /// [`AttesterError::Missing`] when the kernel shows no reports of SEV-SNP.
    pub fn snp() -> Result<Self, AttesterError> {
        Self::at(Technology::Snp, Path::new(ROOT), Box::new(SystemFiles))
    }

    /// A TDX guest.
    ///
    /// # Errors
    ///
    /// [`AttesterError::Missing`] when the kernel shows no reports of TDX.
    pub fn tdx() -> Result<Self, AttesterError> {
        Self::at(Technology::Tdx, Path::new(ROOT), Box::new(SystemFiles))
    }

    /// With another directory than the kernel's usual one, and another way to its files.
    ///
    /// # Errors
    ///
    /// [`AttesterError::Missing`] when it is not there, or belongs to another technology.
    pub fn at(technology: Technology, root: &Path, files: Box<dyn Files>) -> Result<Self, AttesterError> {
        let attester = Self { technology, root: root.to_owned(), files, certificates: Mutex::new(None) };
        attester.entry()?;
        Ok(attester)
    }

    fn provider(&self) -> Result<&'static str, AttesterError> {
        match self.technology {
            Technology::Snp => Ok("sev_guest"),
            Technology::Tdx => Ok("tdx_guest"),
            _ => Err(self.missing("configfs-tsm is for SEV-SNP and TDX guests only".to_owned(), None)),
        }
    }

    /// A fresh entry, of the right provider.
    fn entry(&self) -> Result<Entry<'_>, AttesterError> {
        let provider = self.provider()?;
        if !self.root.is_dir() {
            let what = format!(
                "{} is not a directory; this is no confidential guest, or configfs is not mounted",
                self.root.display()
            );
            return Err(self.missing(what, None));
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join(format!("dunlin-{}-{number}", std::process::id()));
        self.files.create_dir(&path).map_err(|source| {
            let what = format!("{} cannot be made; only root may, and only in a confidential guest", path.display());
            self.missing(what, Some(source))
        })?;
        let entry = Entry { path, files: &*self.files };
        let found =
            entry.text("provider").map_err(|source| self.missing("it names no provider".to_owned(), Some(source)))?;
        if found != provider {
            return Err(self.missing(format!("the kernel's provider is {found:?}, not {provider:?}"), None));
        }
        Ok(entry)
    }

    /// One request. `None` means that somebody else disturbed it.
    fn ask(&self, entry: &Entry<'_>, report_data: &ReportData) -> io::Result<Option<Answer>> {
        let before = entry.generation()?;
        let mut writes = 1;
        if self.technology == Technology::Snp && entry.has("privlevel") {
            // The most privileged level, said explicitly: the default is that of the kernel's own level.
            entry.write("privlevel", b"0")?;
            writes += 1;
        }
        entry.write("inblob", report_data.as_bytes())?;
        let report = entry.blob("outblob")?;
        let certificates = match entry.blob("auxblob") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other?).filter(|blob| !blob.is_empty()),
        };
        let after = entry.generation()?;
        Ok((after == before.wrapping_add(writes)).then_some(Answer { report, certificates }))
    }

    fn missing(&self, what: String, source: Option<io::Error>) -> AttesterError {
        AttesterError::Missing { technology: self.technology, what, source: source.map(Into::into) }
    }

    fn failed(&self, what: &str, source: Option<io::Error>) -> AttesterError {
        AttesterError::Failed { technology: self.technology, what: what.to_owned(), source: source.map(Into::into) }
    }
}

impl Attester for TsmAttester {
    fn kind(&self) -> Technology {
        self.technology
    }

    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, AttesterError> {
        let mut pause = PAUSE;
        for _ in 0..TRIES {
            // A new directory each time: what another writer did to the last one is gone with it.
            let entry = self.entry()?;
            match self.ask(&entry, report_data) {
                Ok(Some(Answer { report, certificates })) => {
                    let certificates = certificates.as_deref().and_then(certificates::parse);
                    *self.certificates.lock().unwrap_or_else(PoisonError::into_inner) = certificates;
                    return match self.technology {
                        Technology::Snp if report.len() == SNP_REPORT => Ok(Evidence::Snp(report)),
                        Technology::Snp => Err(self.failed("an SNP report has 1184 bytes, this one has others", None)),
                        _ if report.is_empty() => {
                            Err(self.failed("the quote is empty; the host's quoting service may be down", None))
                        }
                        _ => Ok(Evidence::tdx_from_buffer(&report)),
                    };
                }
                Ok(None) => {}
                Err(error) if is_busy(&error) => {}
                Err(error) => return Err(self.failed("the kernel or the host refused the report", Some(error))),
            }
            std::thread::sleep(pause);
            pause *= 2;
        }
        Err(self.failed("somebody else asks all the time, so that no answer is ours", None))
    }

    fn endorsements(&self) -> Result<Endorsements, AttesterError> {
        let certificates = self.certificates.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let collateral = certificates.map_or(Collateral::None, Collateral::Amd);
        Ok(Endorsements { collateral, statement: None })
    }
}

/// What the kernel answered to one request.
struct Answer {
    report: Vec<u8>,
    certificates: Option<Vec<u8>>,
}

/// The kernel says so when a request is under way, or another write came first.
fn is_busy(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::WouldBlock | Kind::ResourceBusy | Kind::Interrupted | Kind::TimedOut)
}

/// A directory of one request. It goes with this value.
#[derive(Debug)]
struct Entry<'a> {
    path: PathBuf,
    files: &'a dyn Files,
}

impl Entry<'_> {
    fn has(&self, name: &str) -> bool {
        self.path.join(name).exists()
    }

    /// The kernel takes a blob in one write.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.files.write(&self.path.join(name), bytes)
    }

    fn blob(&self, name: &str) -> io::Result<Vec<u8>> {
        self.files.read(&self.path.join(name), MAX_BLOB)
    }

    fn text(&self, name: &str) -> io::Result<String> {
        let bytes = self.files.read(&self.path.join(name), MAX_TEXT)?;
        let text = String::from_utf8(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(text.trim_end().to_owned())
    }

    fn generation(&self) -> io::Result<u32> {
        self.text("generation")?.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        // A directory that cannot be removed costs a little kernel memory, and the next one has another name.
        let _ = self.files.remove_dir(&self.path);
    }
}
