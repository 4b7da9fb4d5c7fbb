//! A simulated platform, so that everything that needs an attester has one on every machine: it measures the program
//! that runs, the module and the policy. It must never appear as anything but a simulation: its evidence bears a label,
//! its key is known to everybody, and a policy with any floor above `sim` refuses it.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use dunlin_attest::{
    Attester, AttesterError, Evidence, PlatformId, ReportData, SigningKey, SimRoots, SimStatement, Technology,
    TpmEvent, TpmEventKind, VerifyingKey,
};
use dunlin_base::{Digest, Hasher};

/// A simulated machine with a program that runs on it.
#[derive(Debug)]
pub struct SimAttester {
    key: SigningKey,
    platform: PlatformId,
    runtime: Digest,
    /// Module and policy; the nothing before they are known is all zeros.
    measured: Mutex<(Digest, Digest)>,
}

impl SimAttester {
    /// The machine `name` (lower-case letters, digits, dots and dashes), on which this very program runs: the SHA-256
    /// of its executable is the measured runtime.
    ///
    /// # Errors
    ///
    /// When the executable cannot be read, or the name is none.
    pub fn of_this_program(name: &str) -> Result<Self, AttesterError> {
        // The file that was started, also where another one has its name by now.
        Self::of_program(name, Path::new("/proc/self/exe"))
    }

    /// The machine `name` with the program in `executable`.
    ///
    /// # Errors
    ///
    /// As [`Self::of_this_program`].
    pub fn of_program(name: &str, executable: &Path) -> Result<Self, AttesterError> {
        let program = File::open(executable).map_err(|source| AttesterError::Missing {
            technology: Technology::Sim,
            what: format!("the program {} cannot be opened, so it cannot be measured", executable.display()),
            source: Some(source.into()),
        })?;
        Self::of_file(name, &program)
    }

    /// The machine `name` with the program in a file that is open already, for who cannot open files any more.
    ///
    /// # Errors
    ///
    /// As [`Self::of_this_program`].
    pub fn of_file(name: &str, program: &File) -> Result<Self, AttesterError> {
        let runtime = measure_file(program).map_err(|source| AttesterError::Missing {
            technology: Technology::Sim,
            what: "the program cannot be read, so it cannot be measured".to_owned(),
            source: Some(source.into()),
        })?;
        let platform = PlatformId::sim(name).map_err(|source| failed("the name of the machine is unusable", source))?;
        let measured = Mutex::new((Digest([0; 32]), Digest([0; 32])));
        Ok(Self { key: key_of(name)?, platform, runtime, measured })
    }

    /// The measured program.
    pub fn runtime(&self) -> Digest {
        self.runtime
    }

    /// The public half of the machine's key.
    pub fn key(&self) -> VerifyingKey {
        self.key.verifying_key()
    }
}

impl Attester for SimAttester {
    fn kind(&self) -> Technology {
        Technology::Sim
    }

    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, AttesterError> {
        let (module, policy) = *self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        let statement = SimStatement { platform: self.platform.clone(), runtime: self.runtime, module, policy };
        statement.evidence(report_data, &self.key).map_err(|source| failed("it cannot be encoded", source))
    }

    /// A module or a policy takes the place of the one before. The runtime is what runs, and cannot be told.
    fn measure(&self, event: TpmEvent) -> Result<(), AttesterError> {
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        match event.kind {
            TpmEventKind::Runtime if event.digest == self.runtime => {}
            TpmEventKind::Runtime => {
                let what = format!("the program that runs is {}, not {}", self.runtime, event.digest);
                return Err(AttesterError::Failed { technology: Technology::Sim, what, source: None });
            }
            TpmEventKind::Module => measured.0 = event.digest,
            TpmEventKind::Policy => measured.1 = event.digest,
        }
        Ok(())
    }

    fn platform_hint(&self) -> Option<PlatformId> {
        Some(self.platform.clone())
    }
}

/// Roots under which evidence of the simulated machines with these names verifies, as class `sim`.
///
/// # Errors
///
/// For names that are none.
pub fn roots<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<SimRoots, AttesterError> {
    let keys = names.into_iter().map(|name| key_of(name).map(|key| key.verifying_key()));
    Ok(SimRoots { keys: keys.collect::<Result<_, _>>()?, ..SimRoots::default() })
}

/// The simulated machine of a provider: there is one for each, named after it.
pub fn machine_of(provider: &str) -> String {
    let letter = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '.' | '-') => c,
        _ => '-',
    };
    let name: String = provider.chars().take(60).map(letter).collect();
    if name.is_empty() { "nobody".to_owned() } else { name }
}

/// The key of a simulated machine follows from its name: whoever looks for a secret in a simulation finds none.
fn key_of(name: &str) -> Result<SigningKey, AttesterError> {
    let mut hash = Hasher::default();
    hash.update(b"dunlin simulated platform, not a secret\0");
    hash.update(name.as_bytes());
    SigningKey::from_bytes(&hash.finish().0).map_err(|source| failed("the name gives no key; take another", source))
}

/// The SHA-256 of a program's file, which is what every platform measures of a keep.
///
/// # Errors
///
/// When it cannot be read.
pub fn measure_file(file: &File) -> io::Result<Digest> {
    let mut hash = Hasher::default();
    let mut buffer = vec![0; 64 * 1024];
    let mut at = 0;
    loop {
        // Wherever others have read in this file.
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(hash.finish()),
            read => {
                hash.update(buffer.get(..read).unwrap_or_default());
                at += read as u64;
            }
        }
    }
}

fn failed(what: &str, source: impl std::error::Error + Send + Sync + 'static) -> AttesterError {
    AttesterError::Failed { technology: Technology::Sim, what: what.to_owned(), source: Some(source.into()) }
}

#[cfg(test)]
mod tests {
    use dunlin_attest::{BindingContext, Bytes, Class, Endorsements, Role, TrustRoots, Verifier, VerifyError};

    use super::*;

    fn binding() -> BindingContext {
        BindingContext {
            role: Role::Destination,
            exporter: [1; 32],
            peer_nonce: [2; 32],
            own_spki: Digest::of(b"own"),
            peer_spki: Digest::of(b"peer"),
            instance_key: key_of("instance").expect("a key").verifying_key(),
            kem_key: Bytes::from([3; 32]),
            service: "shop".to_owned(),
            epoch: 1,
            migration: [4; 16],
            policy: Digest::of(b"policy"),
            module: Digest::of(b"module"),
            provider: "acme".to_owned(),
            ledger: "ledger-1".to_owned(),
        }
    }

    #[test]
    fn evidence_names_the_program_that_runs_and_is_labelled() {
        let attester = SimAttester::of_this_program("laptop").expect("an attester");
        for (kind, what) in [(TpmEventKind::Module, &b"module"[..]), (TpmEventKind::Policy, b"policy")] {
            attester.measure(TpmEvent { kind, digest: Digest::of(what) }).expect("measured");
        }
        let own = std::fs::read(std::env::current_exe().expect("a path")).expect("the program");
        assert_eq!(attester.runtime(), Digest::of(&own));
        attester.measure(TpmEvent { kind: TpmEventKind::Runtime, digest: Digest::of(&own) }).expect("the same");
        let other = TpmEvent { kind: TpmEventKind::Runtime, digest: Digest::of(b"other") };
        assert!(attester.measure(other).is_err());

        let evidence = attester.evidence(&binding().report_data()).expect("evidence");
        let appraise = |roots: &SimRoots| {
            Verifier::appraise(&evidence, &Endorsements::default(), &binding().report_data(), 0, roots)
        };
        let claims = appraise(&roots(["desk", "laptop"]).expect("roots")).expect("verifies");
        assert_eq!((claims.class, claims.platform.as_str()), (Class::Sim, "sim:laptop"));
        assert_eq!(claims.registers["runtime"], Bytes::from(Digest::of(&own).0));
        assert_eq!(claims.registers["module"], Bytes::from(Digest::of(b"module").0));
        assert_eq!(claims.measured_policies, [Digest::of(b"policy")]);
        assert!(claims.label.as_deref().is_some_and(|label| label.contains("SIMULATED")));
        assert!(appraise(&roots(["desk"]).expect("roots")).is_err(), "another machine's key");
        let real = Verifier::inspect(&evidence, &Endorsements::default(), 0, &TrustRoots::vendor());
        assert!(matches!(real, Err(VerifyError::NoRoot { .. })));
    }

    #[test]
    fn a_program_that_is_not_there_or_a_bad_name_is_an_error() {
        let missing = SimAttester::of_program("laptop", Path::new("/nonexistent/keep"));
        assert!(matches!(missing, Err(AttesterError::Missing { .. })));
        assert!(matches!(SimAttester::of_this_program("Lap top"), Err(AttesterError::Failed { .. })));
    }

    #[test]
    fn every_provider_has_a_simulated_machine() {
        for provider in ["", "acme", "Acme & Söhne", &"x".repeat(300)] {
            roots([machine_of(provider).as_str()]).unwrap();
        }
        assert_eq!(machine_of("acme"), "acme");
    }
}
