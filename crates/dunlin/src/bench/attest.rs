//! How long trust takes: appraisal of evidence of each technology, alone and many at once, and a quote of a TPM.
//! Measurements of other parts of the trust path stand beside these in [`Report`].

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use dunlin_attest::{
    AmdCollateral, Attester as _, BindingContext, Bytes, Collateral, Endorsements, Evidence, Policy, ReportData, Role,
    SigningKey, SimRoots, TrustRoots, Verifier,
};
use dunlin_attest_tpm::{Device, Tpm, TpmAttester, TpmSettings};
use dunlin_base::Digest;
use serde::Serialize;

use super::machine::Machine;
use super::statistics::{Samples, Spread};
use super::{handshake, sealed};
use crate::failure::{Exit, Failure, Result};
use crate::text::{Table, milliseconds, time_of};

/// 2025-07-01: inside the window of the genuine samples.
const SUMMER: u64 = 1_751_328_000;
/// The goal for one appraisal, in milliseconds.
const GOAL: f64 = 2.0;

/// All that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    goal_ms: f64,
    appraisal: Vec<Appraisal>,
    /// Absent where no TPM was given and no software TPM could be started.
    tpm_quote: Option<Spread>,
    tpm_why_not: Option<String>,
    handshake: handshake::Report,
    sealed: sealed::Report,
}

/// Verifying evidence and asking a policy about it.
#[derive(Debug, Serialize)]
struct Appraisal {
    technology: &'static str,
    concurrent: usize,
    /// Of one appraisal, as its thread sees it.
    latency: Spread,
    per_second: f64,
}

pub(crate) fn measure(rounds: usize, device: Option<&Device>, scratch: &Path) -> Result<Report> {
    let machine = Machine::look();
    let subjects = subjects()?;
    let policy = policy()?;
    let mut appraisal = Vec::new();
    // Technologies take turns within each degree of concurrency, so that the machine's moods meet all of them.
    for concurrent in [1, 2, 4, 8, 16, 32, 64] {
        for subject in &subjects {
            appraisal.push(subject.measure(&policy, concurrent, rounds));
        }
    }
    let (tpm_quote, tpm_why_not) = match quotes(rounds, device, scratch) {
        Ok(spread) => (Some(spread), None),
        Err(failure) if device.is_some() => return Err(failure),
        Err(failure) => (None, Some(failure.to_string())),
    };
    let handshake = handshake::measure(rounds)?;
    let sealed = sealed::measure(rounds, scratch)?;
    Ok(Report { machine, goal_ms: GOAL, appraisal, tpm_quote, tpm_why_not, handshake, sealed })
}

impl Report {
    pub(crate) fn text(&self) -> String {
        let mut table = Table::new(&["technology", ">at once", ">median", ">p99", ">per second"]);
        for Appraisal { technology, concurrent, latency, per_second } in &self.appraisal {
            table.row([
                (*technology).to_owned(),
                concurrent.to_string(),
                time_of(latency.p50),
                time_of(latency.p99),
                format!("{per_second:.0}"),
            ]);
        }
        let tpm = match (&self.tpm_quote, &self.tpm_why_not) {
            (Some(spread), _) => format!("TPM evidence: median {}, p99 {}", time_of(spread.p50), time_of(spread.p99)),
            (None, why) => format!("TPM evidence: not measured: {}", why.as_deref().unwrap_or_default()),
        };
        format!(
            "{}\n\nAppraisal: evidence to verdict (goal {} alone)\n{}\n{tpm}\n\n{}\n{}",
            self.machine.text(),
            time_of(self.goal_ms),
            table.render("  "),
            self.handshake.text(),
            self.sealed.text()
        )
    }
}

/// Evidence with all that its appraisal needs.
struct Subject {
    technology: &'static str,
    evidence: Evidence,
    endorsements: Endorsements,
    now: u64,
    roots: Roots,
}

enum Roots {
    Vendor(TrustRoots),
    Sim(SimRoots),
}

impl Subject {
    /// One appraisal. Samples are not bound to a session, so the policy gives its preview: the same rules.
    fn appraise(&self, policy: &Policy) -> usize {
        let claims = match &self.roots {
            Roots::Vendor(roots) => Verifier::inspect(&self.evidence, &self.endorsements, self.now, roots),
            Roots::Sim(roots) => Verifier::inspect(&self.evidence, &self.endorsements, self.now, roots),
        };
        claims.map_or(0, |claims| policy.preview(&claims, self.now).reasons().len())
    }

    fn measure(&self, policy: &Policy, concurrent: usize, rounds: usize) -> Appraisal {
        let each = rounds.div_ceil(concurrent).max(3);
        let barrier = Barrier::new(concurrent);
        let began = Instant::now();
        let all: Vec<Vec<Duration>> = std::thread::scope(|scope| {
            let work = || {
                barrier.wait();
                let one = || {
                    let began = Instant::now();
                    std::hint::black_box(self.appraise(policy));
                    began.elapsed()
                };
                (0..each).map(|_| one()).collect::<Vec<_>>()
            };
            let threads: Vec<_> = (0..concurrent).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
        });
        let total = began.elapsed();
        let mut samples = Samples::default();
        all.iter().flatten().for_each(|time| samples.add(milliseconds(*time)));
        let per_second = (each * concurrent) as f64 / total.as_secs_f64();
        Appraisal { technology: self.technology, concurrent, latency: samples.spread(), per_second }
    }
}

fn subjects() -> Result<Vec<Subject>> {
    let vendor = || Roots::Vendor(TrustRoots::vendor());
    let intel = |json: &[u8]| Endorsements { collateral: Collateral::Intel(json.to_vec()), statement: None };
    let vek = include_bytes!("../../assets/evidence/vcek_milan.der").to_vec();
    let amd = Collateral::Amd(AmdCollateral { vek, ..AmdCollateral::default() });
    let data = report_data()?;
    let sim = dunlin_attest_sim::SimAttester::of_this_program("bench")
        .and_then(|attester| attester.evidence(&data))
        .map_err(Failure::because(Exit::Software, "there is no simulated evidence"))?;
    let sim_roots = dunlin_attest_sim::roots(["bench"])
        .map_err(Failure::because(Exit::Software, "there are no simulated roots"))?;
    let none = Endorsements::default();
    let subjects = vec![
        Subject {
            technology: "sgx",
            evidence: Evidence::sgx_from_buffer(include_bytes!("../../assets/evidence/sgx_quote")),
            endorsements: intel(include_bytes!("../../assets/evidence/sgx_quote_collateral.json")),
            now: SUMMER,
            roots: vendor(),
        },
        Subject {
            technology: "tdx",
            evidence: Evidence::tdx_from_buffer(include_bytes!("../../assets/evidence/tdx_quote")),
            endorsements: intel(include_bytes!("../../assets/evidence/tdx_quote_collateral.json")),
            now: SUMMER,
            roots: vendor(),
        },
        Subject {
            technology: "snp",
            evidence: Evidence::Snp(include_bytes!("../../assets/evidence/snp_report").to_vec()),
            endorsements: Endorsements { collateral: amd, statement: None },
            now: SUMMER,
            roots: vendor(),
        },
        Subject { technology: "sim", evidence: sim, endorsements: none, now: SUMMER, roots: Roots::Sim(sim_roots) },
    ];
    // A verifier that refuses is fast: what is measured must be genuine.
    for subject in &subjects {
        let claims = match &subject.roots {
            Roots::Vendor(roots) => Verifier::inspect(&subject.evidence, &subject.endorsements, subject.now, roots),
            Roots::Sim(roots) => Verifier::inspect(&subject.evidence, &subject.endorsements, subject.now, roots),
        };
        claims
            .map_err(Failure::because(Exit::Software, format!("the {} sample does not verify", subject.technology)))?;
    }
    Ok(subjects)
}

/// A policy with a block for each technology, so that every rule has something to compare.
fn policy() -> Result<Policy> {
    let key = |seed: u8| {
        SigningKey::from_bytes(&[seed; 32]).map_err(Failure::because(Exit::Software, "there is no key for the bench"))
    };
    let (owner, ledger) = (key(1)?, key(2)?.verifying_key());
    let module = Digest::of(b"module");
    let (register, measurement) = ("00".repeat(32), "00".repeat(48));
    let text = format!(
        r#"
format = 1
service = "bench"
version = 1
issued = 2025-01-01T00:00:00Z
expires = 2026-12-31T00:00:00Z
class_floor = "sim"
modules = ["sha256:{module}"]
[sgx]
accept = [{{ mrenclave = "{register}" }}]
[tdx]
accept = [{{ mrtd = "{measurement}", rtmr0 = "{measurement}", rtmr1 = "{measurement}", rtmr2 = "{measurement}" }}]
[snp]
deny_products = []
min_tcb.Milan = {{ bootloader = 1 }}
accept = [{{ measurement = "{measurement}" }}]
[sim]
accept = [{{ runtime = "{register}" }}]
[[provider]]
id = "acme"
key = "{ledger}"
accept_signed_platforms = true
[ledger]
id = "ledger-1"
keys = ["{ledger}"]
quorum = 1
"#
    );
    let refused = "the bench's own policy is refused";
    let signed = Policy::sign(&text, &owner).map_err(Failure::because(Exit::Software, refused))?;
    Policy::verify(&signed, "bench", &[owner.verifying_key()], None).map_err(Failure::because(Exit::Software, refused))
}

/// Any context does: it is hashed and thrown away.
fn report_data() -> Result<ReportData> {
    let key =
        SigningKey::from_bytes(&[1; 32]).map_err(Failure::because(Exit::Software, "there is no key for the bench"))?;
    let instance_key = key.verifying_key();
    let context = BindingContext {
        role: Role::ServiceToClient,
        exporter: [1; 32],
        peer_nonce: [2; 32],
        own_spki: Digest::of(b"own"),
        peer_spki: Digest::of(b"peer"),
        instance_key,
        kem_key: Bytes::from([3; 32]),
        service: "bench".to_owned(),
        epoch: 1,
        migration: [0; 16],
        policy: Digest::of(b"policy"),
        module: Digest::of(b"module"),
        provider: "acme".to_owned(),
        ledger: "ledger-1".to_owned(),
    };
    Ok(context.report_data())
}

/// Evidence of a TPM: open, compare the event log, quote, read the registers.
fn quotes(rounds: usize, device: Option<&Device>, scratch: &Path) -> Result<Spread> {
    let started = if device.is_none() { Some(SoftwareTpm::start(scratch)?) } else { None };
    let device = match (device, &started) {
        (Some(device), _) => device.clone(),
        (None, Some(started)) => started.device.clone(),
        (None, None) => return Err(Failure::new(Exit::Unavailable, "there is no TPM")),
    };
    let settings = TpmSettings { device, event_log: scratch.join("tpm-events"), statement: None, platform: None };
    let failed = "the TPM gives no evidence";
    let attester = TpmAttester::new(settings).map_err(Failure::because(Exit::Unavailable, failed))?;
    let data = report_data()?;
    let mut samples = Samples::default();
    for _ in 0..rounds.clamp(3, 50) {
        let began = Instant::now();
        attester.evidence(&data).map_err(Failure::because(Exit::Unavailable, failed))?;
        samples.add(milliseconds(began.elapsed()));
    }
    Ok(samples.spread())
}

/// A software TPM that goes with this value.
struct SoftwareTpm {
    child: Child,
    device: Device,
}

impl SoftwareTpm {
    fn start(scratch: &Path) -> Result<Self> {
        let socket: PathBuf = scratch.join("tpm.sock");
        let unix = |suffix: &str| format!("type=unixio,path={}{suffix}", socket.display());
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"])
            .arg(format!("dir={}", scratch.display()))
            .args(["--server", &unix(""), "--ctrl", &unix(".ctrl")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Failure::because(Exit::Unavailable, "swtpm cannot be run; install it, or name a TPM by --tpm"))?;
        let device = Device::Socket(socket);
        let started = Self { child, device };
        let patience = Instant::now() + Duration::from_secs(10);
        while Tpm::open(&started.device).and_then(|mut tpm| tpm.random(1)).is_err() {
            if Instant::now() > patience {
                return Err(Failure::new(Exit::Unavailable, "swtpm does not answer"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(started)
    }
}

impl Drop for SoftwareTpm {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
