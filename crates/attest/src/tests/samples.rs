//! Genuine evidence, read from inside the packages that ship it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::{AmdCollateral, Bytes, Collateral, Endorsements, Evidence, TrustRoots, UnboundClaims, Verifier};

/// A sample with the collateral that belongs to it and a second in the middle of its window.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) name: &'static str,
    pub(super) evidence: Evidence,
    pub(super) endorsements: Endorsements,
    pub(super) now: u64,
    /// The length of the area that the hardware signed.
    pub(super) signed: usize,
}

impl Sample {
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.evidence {
            Evidence::Sgx(bytes) | Evidence::Tdx(bytes) | Evidence::Snp(bytes) | Evidence::Sim(bytes) => bytes,
            Evidence::Tpm(_) => unreachable!("no sample of a TPM is in a package"),
        }
    }

    pub(super) fn with_bytes(&self, bytes: Vec<u8>) -> Evidence {
        match &self.evidence {
            Evidence::Sgx(_) => Evidence::Sgx(bytes),
            Evidence::Tdx(_) => Evidence::Tdx(bytes),
            _ => Evidence::Snp(bytes),
        }
    }

    pub(super) fn inspect(&self) -> UnboundClaims {
        Verifier::inspect(&self.evidence, &self.endorsements, self.now, &TrustRoots::vendor())
            .unwrap_or_else(|error| panic!("{}: {error:?}", self.name))
    }
}

/// The unpacked directory of a package that this crate depends on, at least for its tests.
pub(super) fn package(name: &str) -> PathBuf {
    static METADATA: OnceLock<serde_json::Value> = OnceLock::new();
    let metadata = METADATA.get_or_init(|| {
        // Without the filter cargo asks for packages of other systems, which nobody has downloaded.
        let about = Command::new(env!("CARGO")).arg("-vV").output().expect("cargo runs");
        let about = String::from_utf8_lossy(&about.stdout).into_owned();
        let host = about.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo names its host");
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--filter-platform", host, "--manifest-path"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("cargo writes JSON")
    });
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages.iter().find(|package| package["name"] == name).expect("the package is a dependency");
    let manifest = PathBuf::from(package["manifest_path"].as_str().expect("a path"));
    manifest.parent().expect("a directory").to_owned()
}

pub(super) fn read(package_name: &str, path: &str) -> Vec<u8> {
    let path = package(package_name).join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn intel(name: &str) -> (Vec<u8>, Endorsements) {
    let quote = read("dcap-qvl", &format!("sample/{name}"));
    let json = read("dcap-qvl", &format!("sample/{name}_collateral.json"));
    (quote, Endorsements { collateral: Collateral::Intel(json), statement: None })
}

/// 2025-07-01: inside the window of the SGX and the first TDX sample.
const SUMMER: u64 = 1_751_328_000;
/// 2026-10-20: inside the window of the TD 1.5 extended sample.
const AUTUMN: u64 = 1_792_454_400;

pub(super) fn sgx() -> Sample {
    let (quote, endorsements) = intel("sgx_quote");
    Sample { name: "sgx", evidence: Evidence::Sgx(quote), endorsements, now: SUMMER, signed: 432 }
}

pub(super) fn tdx() -> Sample {
    let (quote, endorsements) = intel("tdx_quote");
    // This file is the platform's buffer: 70 zeros follow the quote.
    assert_eq!(quote.len(), 5006);
    Sample { name: "tdx", evidence: Evidence::tdx_from_buffer(&quote), endorsements, now: SUMMER, signed: 632 }
}

pub(super) fn td15ex() -> Sample {
    let (quote, endorsements) = intel("tdx_quote_td15ex");
    Sample { name: "td15ex", evidence: Evidence::Tdx(quote), endorsements, now: AUTUMN, signed: 939 }
}

/// A quote of a platform whose TCB no level of its collateral covers.
pub(super) fn outdated() -> Sample {
    let (quote, endorsements) = intel("tdx_quote_outdated");
    Sample { name: "outdated", evidence: Evidence::Tdx(quote), endorsements, now: SUMMER, signed: 702 }
}

pub(super) fn snp() -> Sample {
    let hex = String::from_utf8(read("sev", "tests/certs_data/report_milan.hex")).expect("text");
    let report: Bytes = hex.trim().parse().expect("hexadecimal");
    let vek = read("sev", "tests/certs_data/vcek_milan.der");
    let collateral = Collateral::Amd(AmdCollateral { vek, intermediate: None, crl: None });
    let endorsements = Endorsements { collateral, statement: None };
    Sample { name: "snp", evidence: Evidence::Snp(report.0), endorsements, now: SUMMER, signed: 0x2a0 }
}

/// Everything that verifies.
pub(super) fn all() -> [Sample; 4] {
    [sgx(), tdx(), td15ex(), snp()]
}
