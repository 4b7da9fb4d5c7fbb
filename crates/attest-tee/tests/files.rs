//! Attesters against directory trees that behave like the kernel's and Gramine's: files on disk, behind a way to them
//! that does what the kernel does when one is written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dunlin_attest::{
    AmdCollateral, Attester as _, AttesterError, BindingContext, Bytes, Collateral, Endorsements, Evidence, ReportData,
    Role, SigningKey, Technology,
};
use dunlin_attest_tee::{Files, GramineAttester, SystemFiles, TsmAttester};
use dunlin_base::Digest;

fn report_data(nonce: u8) -> ReportData {
    BindingContext {
        role: Role::Source,
        exporter: [1; 32],
        peer_nonce: [nonce; 32],
        own_spki: Digest::of(b"own"),
        peer_spki: Digest::of(b"peer"),
        instance_key: SigningKey::from_bytes(&[4; 32]).expect("a key").verifying_key(),
        kem_key: Bytes::from([3; 32]),
        service: "shop".to_owned(),
        epoch: 1,
        migration: [4; 16],
        policy: Digest::of(b"policy"),
        module: Digest::of(b"module"),
        provider: "acme".to_owned(),
        ledger: "ledger-1".to_owned(),
    }
    .report_data()
}

/// What the kernel is like.
#[derive(Debug, Clone)]
struct Behaviour {
    provider: &'static str,
    privilege: bool,
    auxiliary: Option<Vec<u8>>,
    length: usize,
    padding: usize,
}

fn snp() -> Behaviour {
    Behaviour { provider: "sev_guest\n", privilege: true, auxiliary: Some(Vec::new()), length: 1184, padding: 0 }
}

fn tdx() -> Behaviour {
    Behaviour { provider: "tdx_guest\n", privilege: false, auxiliary: None, length: 4000, padding: 1000 }
}

/// configfs-tsm, or Gramine's directory.
#[derive(Debug)]
struct Kernel {
    behaviour: Behaviour,
    /// How often somebody else writes between a request and its answer.
    disturbances: AtomicU32,
    /// How often the kernel is busy.
    busy: AtomicU32,
    made: Arc<AtomicU32>,
}

impl Kernel {
    fn boxed(behaviour: Behaviour, disturbances: u32, busy: u32) -> (Box<dyn Files>, Arc<AtomicU32>) {
        let made = Arc::new(AtomicU32::new(0));
        let (disturbances, busy) = (AtomicU32::new(disturbances), AtomicU32::new(busy));
        (Box::new(Self { behaviour, disturbances, busy, made: made.clone() }), made)
    }

    fn count_up(entry: &Path) -> io::Result<()> {
        let path = entry.join("generation");
        let number: u32 = fs::read_to_string(&path)?.trim_end().parse().expect("a number");
        fs::write(path, format!("{}\n", number + 1))
    }
}

/// One less, if there is one.
fn spend(number: &AtomicU32) -> bool {
    number.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// What a platform would sign: recognisable bytes around the report data.
fn report(data: &[u8], length: usize, padding: usize) -> Vec<u8> {
    let mut report = vec![0x5a; length];
    report[80..80 + data.len()].copy_from_slice(data);
    // The header of a quote, and the length of its signature data for the removal of padding.
    report.extend(vec![0; padding]);
    report
}

impl Files for Kernel {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)?;
        self.made.fetch_add(1, Ordering::Relaxed);
        fs::write(path.join("provider"), self.behaviour.provider)?;
        // Entries are reused by the kernel in no way, but nothing says that they begin with zero.
        fs::write(path.join("generation"), "7\n")?;
        fs::write(path.join("inblob"), "")?;
        fs::write(path.join("outblob"), "")?;
        if self.behaviour.privilege {
            fs::write(path.join("privlevel"), "")?;
        }
        if let Some(auxiliary) = &self.behaviour.auxiliary {
            fs::write(path.join("auxblob"), auxiliary)?;
        }
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let (entry, name) = (path.parent().expect("a directory"), path.file_name().expect("a name"));
        if name == "inblob" {
            assert_eq!(bytes.len(), 64);
            if self.behaviour.privilege {
                assert_eq!(fs::read(entry.join("privlevel"))?, b"0", "the privilege level is said first");
            }
            fs::write(path, bytes)?;
            fs::write(entry.join("outblob"), report(bytes, self.behaviour.length, self.behaviour.padding))?;
        } else if name == "user_report_data" {
            fs::write(path, bytes)?;
            return fs::write(entry.join("quote"), report(bytes, self.behaviour.length, self.behaviour.padding));
        } else {
            SystemFiles.write(path, bytes)?;
        }
        Self::count_up(entry)
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        if path.ends_with("outblob") {
            if spend(&self.busy) {
                return Err(io::ErrorKind::ResourceBusy.into());
            }
            if spend(&self.disturbances) {
                // Another writer: other report data, another answer.
                self.write(&path.with_file_name("inblob"), &[0xee; 64])?;
            }
        }
        SystemFiles.read(path, limit)
    }
}

fn root(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tee-{name}"));
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).expect("a directory");
    root
}

fn entries(root: &Path) -> usize {
    fs::read_dir(root).expect("a directory").count()
}

#[test]
fn snp_reports_come_from_a_fresh_entry_that_is_removed_again() {
    let root = root("snp");
    let (files, made) = Kernel::boxed(snp(), 0, 0);
    let attester = TsmAttester::at(Technology::Snp, &root, files).expect("an attester");
    for nonce in 1..4 {
        let evidence = attester.evidence(&report_data(nonce)).expect("evidence");
        assert_eq!(evidence, Evidence::Snp(report(report_data(nonce).as_bytes(), 1184, 0)));
    }
    assert_eq!((made.load(Ordering::Relaxed), entries(&root)), (4, 0));
    assert_eq!(attester.endorsements().expect("none"), Endorsements::default());
}

#[test]
fn certificates_of_the_host_are_handed_on() {
    // One entry: VCEK at offset 48, 3 bytes.
    let vcek = [0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd];
    let table = [&vcek[..], &48u32.to_le_bytes(), &3u32.to_le_bytes(), &[0; 24], b"key"].concat();
    let (files, _) = Kernel::boxed(Behaviour { auxiliary: Some(table), ..snp() }, 0, 0);
    let attester = TsmAttester::at(Technology::Snp, &root("aux"), files).expect("an attester");
    attester.evidence(&report_data(1)).expect("evidence");
    let expected = Collateral::Amd(AmdCollateral { vek: b"key".to_vec(), ..AmdCollateral::default() });
    assert_eq!(attester.endorsements().expect("certificates").collateral, expected);
}

#[test]
fn an_answer_to_somebody_elses_question_is_asked_for_again() {
    let root = root("disturbed");
    let (files, made) = Kernel::boxed(snp(), 3, 2);
    let attester = TsmAttester::at(Technology::Snp, &root, files).expect("an attester");
    let evidence = attester.evidence(&report_data(1)).expect("evidence in the end");
    assert_eq!(evidence, Evidence::Snp(report(report_data(1).as_bytes(), 1184, 0)));
    assert_eq!((made.load(Ordering::Relaxed), entries(&root)), (7, 0), "each try has its own entry");
    let (files, _) = Kernel::boxed(snp(), u32::MAX, 0);
    let attester = TsmAttester::at(Technology::Snp, &root, files).expect("an attester");
    assert!(matches!(attester.evidence(&report_data(1)), Err(AttesterError::Failed { .. })));
    assert_eq!(entries(&root), 0);
}

#[test]
fn p8_another_technologys_kernel_and_no_kernel_are_errors() {
    let root = root("other");
    for (technology, behaviour) in [(Technology::Tdx, snp()), (Technology::Snp, tdx()), (Technology::Sgx, snp())] {
        let refused = TsmAttester::at(technology, &root, Kernel::boxed(behaviour, 0, 0).0);
        let Err(AttesterError::Missing { technology: named, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(named, technology);
    }
    assert_eq!(entries(&root), 0);
    let nowhere = TsmAttester::at(Technology::Snp, &root.join("nowhere"), Box::new(SystemFiles));
    assert!(matches!(nowhere, Err(AttesterError::Missing { .. })));
    // A directory that is not the kernel's: nothing fills the entry.
    let plain = TsmAttester::at(Technology::Snp, &root, Box::new(SystemFiles));
    assert!(matches!(plain, Err(AttesterError::Missing { .. })));
    let short = Behaviour { length: 1000, ..snp() };
    let attester = TsmAttester::at(Technology::Snp, &root, Kernel::boxed(short, 0, 0).0).expect("an attester");
    assert!(matches!(attester.evidence(&report_data(1)), Err(AttesterError::Failed { .. })));
}

#[test]
fn a_tdx_quote_loses_the_padding_of_its_buffer_and_nothing_else() {
    let (files, _) = Kernel::boxed(tdx(), 0, 0);
    let attester = TsmAttester::at(Technology::Tdx, &root("tdx"), files).expect("an attester");
    let Evidence::Tdx(quote) = attester.evidence(&report_data(1)).expect("evidence") else { panic!("not TDX") };
    let buffer = report(report_data(1).as_bytes(), 4000, 1000);
    assert!(buffer.starts_with(&quote) && quote.len() >= 4000);
}

#[test]
fn sgx_quotes_come_through_gramines_files() {
    let root = root("gramine");
    let behaviour = || Kernel::boxed(Behaviour { length: 4600, padding: 3592, ..tdx() }, 0, 0).0;
    assert!(matches!(GramineAttester::at(&root, behaviour()), Err(AttesterError::Missing { .. })));
    fs::write(root.join("attestation_type"), "none").expect("written");
    assert!(matches!(GramineAttester::at(&root, behaviour()), Err(AttesterError::Missing { .. })));
    fs::write(root.join("attestation_type"), "dcap\n").expect("written");
    let attester = GramineAttester::at(&root, behaviour()).expect("an attester");
    assert!(matches!(GramineAttester::new(), Err(AttesterError::Missing { .. })), "this is no enclave");
    let Evidence::Sgx(quote) = attester.evidence(&report_data(2)).expect("evidence") else { panic!("not SGX") };
    assert!(report(report_data(2).as_bytes(), 4600, 3592).starts_with(&quote));
    assert_eq!(fs::read(root.join("user_report_data")).expect("written"), report_data(2).as_bytes());
}
