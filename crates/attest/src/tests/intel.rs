//! A self-made hierarchy with the shape of Intel's, and quotes under it that say whatever a test wants.

use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer as _;
use sha2::{Digest as _, Sha256};

use super::{der, samples};
use crate::{Collateral, Endorsements, Evidence, SimRoots};

/// 2026-06-01: inside every window below.
pub(super) const NOW: u64 = 1_780_272_000;
const PCK_CA: &str = "Test PCK Platform CA";
const PCK_SERIAL: u64 = 0x51;

/// The genuine name of the root, so that only signatures tell this hierarchy from Intel's.
fn root_name() -> Vec<u8> {
    let Collateral::Intel(json) = samples::sgx().endorsements.collateral else { panic!("Intel") };
    let collateral: dcap_qvl::QuoteCollateralV3 = serde_json::from_slice(&json).expect("collateral");
    let root = collateral.tcb_info_issuer_chain.rfind("-----BEGIN").expect("a chain");
    let (_, root) = x509_cert::der::pem::decode_vec(&collateral.tcb_info_issuer_chain.as_bytes()[root..]).expect("PEM");
    der::subject_of(&root)
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_slice(&[seed; 32]).expect("a key")
}

fn root_key() -> SigningKey {
    key(0x21)
}

fn pck_ca_key() -> SigningKey {
    key(0x22)
}

fn pck_key() -> SigningKey {
    key(0x23)
}

fn collateral_key() -> SigningKey {
    key(0x24)
}

fn attestation_key() -> SigningKey {
    key(0x25)
}

fn sign_der(key: &SigningKey, message: &[u8]) -> Vec<u8> {
    let signature: p256::ecdsa::Signature = key.sign(message);
    signature.to_der().as_bytes().to_vec()
}

fn sign_raw(key: &SigningKey, message: &[u8]) -> Vec<u8> {
    let signature: p256::ecdsa::Signature = key.sign(message);
    signature.to_bytes().to_vec()
}

fn point(key: &SigningKey) -> Vec<u8> {
    key.verifying_key().to_sec1_point(false).as_bytes().to_vec()
}

fn certificate(
    (serial, issuer, subject): (u64, &[u8], &[u8]),
    key: &SigningKey,
    by: &SigningKey,
    extensions: Vec<Vec<u8>>,
) -> Vec<u8> {
    let fields = der::Fields {
        serial,
        issuer: issuer.to_owned(),
        subject: subject.to_owned(),
        not_before: "250101000000Z",
        not_after: "350101000000Z",
        key: der::ec_key("1.2.840.10045.3.1.7", &point(key)),
        extensions,
    };
    fields.sign(&der::ecdsa_algorithm(), |tbs| sign_der(by, tbs))
}

pub(super) fn root() -> Vec<u8> {
    certificate((1, &root_name(), &root_name()), &root_key(), &root_key(), der::ca_extensions())
}

/// What can be wrong with a quote and its collateral. The default is right in everything.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) tdx: bool,
    pub(super) td_attributes: [u8; 8],
    pub(super) sgx_attributes: u8,
    pub(super) report_data: [u8; 64],
    pub(super) config_id: [u8; 48],
    pub(super) status: &'static str,
    pub(super) advisories: &'static [&'static str],
    pub(super) issued: &'static str,
    pub(super) next_update: &'static str,
    pub(super) evaluation: u32,
    pub(super) dynamic: bool,
    pub(super) cached: bool,
    pub(super) smt: bool,
    pub(super) seam_signer: u8,
    pub(super) ppid: [u8; 16],
    /// What the quoting enclave is, and what its identity document says.
    pub(super) qe_signer: u8,
    pub(super) identity_signer: u8,
    pub(super) identity_id: Option<&'static str>,
    /// Whether the identity document carries Intel's signature or that of the quote's own key.
    pub(super) identity_signed: bool,
    pub(super) revoke_pck: bool,
    /// How many bytes too many the quoting enclave's certification data and the signature data have.
    pub(super) slack: [usize; 2],
}

impl Machine {
    pub(super) fn tdx() -> Self {
        Self {
            tdx: true,
            td_attributes: [0, 0, 0, 0x10, 0, 0, 0, 0],
            sgx_attributes: 0x05,
            report_data: [0x5a; 64],
            config_id: [0; 48],
            status: "UpToDate",
            advisories: &[],
            issued: "2026-05-20T00:00:00Z",
            next_update: "2026-06-20T00:00:00Z",
            evaluation: 18,
            dynamic: false,
            cached: false,
            smt: false,
            seam_signer: 0,
            ppid: [0xe1; 16],
            qe_signer: 0x77,
            identity_signer: 0x77,
            identity_id: None,
            identity_signed: true,
            revoke_pck: false,
            slack: [0, 0],
        }
    }

    pub(super) fn sgx() -> Self {
        Self { tdx: false, ..Self::tdx() }
    }

    pub(super) fn roots(&self) -> SimRoots {
        SimRoots { intel: Some(root()), ..SimRoots::default() }
    }

    fn pck(&self) -> Vec<u8> {
        let entry = |id: &str, value: Vec<u8>| der::seq(&[der::oid(&format!("1.2.840.113741.1.13.1.{id}")), value]);
        let mut tcb: Vec<_> = (1..=16).map(|part| entry(&format!("2.{part}"), der::int(5))).collect();
        tcb.push(entry("2.17", der::int(13)));
        tcb.push(entry("2.18", der::octets(&[5; 16])));
        let flags = [(1, self.dynamic), (2, self.cached), (3, self.smt)];
        let flags: Vec<_> = flags.iter().map(|(part, flag)| entry(&format!("7.{part}"), der::boolean(*flag))).collect();
        let sgx = der::seq(&[
            entry("1", der::octets(&self.ppid)),
            entry("2", der::seq(&tcb)),
            entry("3", der::octets(&[0, 0])),
            entry("4", der::octets(&[0x90, 0x6e, 0xa1, 0, 0, 0])),
            entry("5", der::tlv(0x0a, &[1])),
            entry("6", der::octets(&[0x61; 16])),
            entry("7", der::seq(&flags)),
        ]);
        let extensions = vec![der::extension("1.2.840.113741.1.13.1", false, &sgx)];
        certificate((PCK_SERIAL, &der::name(PCK_CA), &der::name("Test PCK")), &pck_key(), &pck_ca_key(), extensions)
    }

    fn pck_chain(&self) -> String {
        let ca = certificate((2, &root_name(), &der::name(PCK_CA)), &pck_ca_key(), &root_key(), der::ca_extensions());
        [self.pck(), ca, root()].map(|cert| der::pem(&cert)).concat()
    }

    fn signed(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(if self.tdx { 4u16 } else { 3 }.to_le_bytes());
        out.extend(2u16.to_le_bytes());
        out.extend(if self.tdx { 0x81u32 } else { 0 }.to_le_bytes());
        out.extend([0; 4]);
        out.extend(dcap_qvl::INTEL_QE_VENDOR_ID);
        out.extend([0; 20]);
        if self.tdx {
            out.extend([5, 0, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5]);
            out.extend([0x5e; 48]);
            out.extend([self.seam_signer; 48]);
            out.extend([0; 8]);
            out.extend(self.td_attributes);
            out.extend([0xe7, 0, 6, 0, 0, 0, 0, 0]);
            out.extend([0x01; 48]);
            out.extend(self.config_id);
            out.extend([0; 96]);
            for register in 0x10..0x14 {
                out.extend([register; 48]);
            }
            out.extend(self.report_data);
        } else {
            out.extend(enclave_report(self.sgx_attributes, 0xee, 0xdd, self.report_data));
        }
        out
    }

    pub(super) fn quote(&self) -> Vec<u8> {
        let signed = self.signed();
        let attestation = attestation_key();
        let key = &point(&attestation)[1..];
        let auth_data = [0x0a; 32];
        let mut qe_data = [0; 64];
        qe_data[..32].copy_from_slice(&Sha256::digest([key, &auth_data].concat()));
        let qe_report = enclave_report(0x05, 0xcc, self.qe_signer, qe_data);
        let chain = self.pck_chain();
        let mut inner = qe_report.clone();
        inner.extend(sign_raw(&pck_key(), &qe_report));
        inner.extend(32u16.to_le_bytes());
        inner.extend(auth_data);
        inner.extend(5u16.to_le_bytes());
        inner.extend((chain.len() as u32).to_le_bytes());
        inner.extend(chain.as_bytes());
        inner.extend(vec![0; self.slack[0]]);
        let mut auth = sign_raw(&attestation, &signed);
        auth.extend(key);
        if self.tdx {
            auth.extend(6u16.to_le_bytes());
            auth.extend((inner.len() as u32).to_le_bytes());
        }
        auth.extend(inner);
        auth.extend(vec![0; self.slack[1]]);
        [signed, (auth.len() as u32).to_le_bytes().to_vec(), auth].concat()
    }

    fn collateral(&self) -> Vec<u8> {
        let hex = |byte: u8, count: usize| format!("{byte:02X}").repeat(count);
        let Self { issued, next_update, evaluation, status, .. } = self;
        let components = vec![r#"{"svn":5}"#; 16].join(",");
        let advisories: Vec<_> = self.advisories.iter().map(|id| format!("\"{id}\"")).collect();
        let advisories = advisories.join(",");
        let (tdx_components, module, id) = if self.tdx {
            let module = format!(
                r#""tdxModule":{{"mrsigner":"{}","attributes":"{}","attributesMask":"{}"}},"#,
                hex(0, 48),
                hex(0, 8),
                hex(0xff, 8)
            );
            let tdx = vec![r#"{"svn":0}"#; 16].join(",");
            (format!(r#""tdxtcbcomponents":[{tdx}],"#), module, "TDX")
        } else {
            (String::new(), String::new(), "SGX")
        };
        let tcb_info = format!(
            r#"{{"id":"{id}","version":3,"issueDate":"{issued}","nextUpdate":"{next_update}","fmspc":"906EA1000000","pceId":"0000","tcbType":0,"tcbEvaluationDataNumber":{evaluation},{module}"tcbLevels":[{{"tcb":{{"sgxtcbcomponents":[{components}],{tdx_components}"pcesvn":13}},"tcbDate":"2026-02-11T00:00:00Z","tcbStatus":"{status}","advisoryIDs":[{advisories}]}}]}}"#
        );
        let identity_id = self.identity_id.unwrap_or(if self.tdx { "TD_QE" } else { "QE" });
        let identity = format!(
            r#"{{"id":"{identity_id}","version":2,"issueDate":"{issued}","nextUpdate":"{next_update}","tcbEvaluationDataNumber":{evaluation},"miscselect":"00000000","miscselectMask":"FFFFFFFF","attributes":"05{}","attributesMask":"FB{}","mrsigner":"{}","isvprodid":1,"tcbLevels":[{{"tcb":{{"isvsvn":4}},"tcbDate":"2026-02-11T00:00:00Z","tcbStatus":"UpToDate"}}]}}"#,
            hex(0, 15),
            hex(0xff, 15),
            hex(self.identity_signer, 32),
        );
        let usage = vec![der::extension("2.5.29.15", true, &der::tlv(0x03, &[7, 0x80]))];
        let signer =
            certificate((3, &root_name(), &der::name("Test TCB Signing")), &collateral_key(), &root_key(), usage);
        let signer_chain = [signer, root()].map(|cert| der::pem(&cert)).concat();
        let identity_key = if self.identity_signed { collateral_key() } else { attestation_key() };
        let window = ("260501000000Z", "270501000000Z");
        let revoked: &[u64] = if self.revoke_pck { &[PCK_SERIAL] } else { &[] };
        let pck_crl =
            der::crl(&der::name(PCK_CA), window, revoked, &der::ecdsa_algorithm(), |tbs| sign_der(&pck_ca_key(), tbs));
        let root_crl = der::crl(&root_name(), window, &[], &der::ecdsa_algorithm(), |tbs| sign_der(&root_key(), tbs));
        let text = |bytes: &[u8]| crate::Bytes::from(bytes).to_string();
        let json = serde_json::json!({
            "pck_crl_issuer_chain": self.pck_chain(),
            "root_ca_crl": text(&root_crl),
            "pck_crl": text(&pck_crl),
            "tcb_info_issuer_chain": signer_chain,
            "tcb_info": tcb_info,
            "tcb_info_signature": text(&sign_raw(&collateral_key(), tcb_info.as_bytes())),
            "qe_identity_issuer_chain": signer_chain,
            "qe_identity": identity,
            "qe_identity_signature": text(&sign_raw(&identity_key, identity.as_bytes())),
        });
        json.to_string().into_bytes()
    }

    pub(super) fn evidence(&self) -> (Evidence, Endorsements) {
        let quote = self.quote();
        let evidence = if self.tdx { Evidence::Tdx(quote) } else { Evidence::Sgx(quote) };
        (evidence, Endorsements { collateral: Collateral::Intel(self.collateral()), statement: None })
    }
}

fn enclave_report(attributes: u8, measurement: u8, signer: u8, report_data: [u8; 64]) -> Vec<u8> {
    let mut out = vec![5; 16];
    out.extend([0; 4 + 28]);
    out.push(attributes);
    out.extend([0; 15]);
    out.extend([measurement; 32]);
    out.extend([0; 32]);
    out.extend([signer; 32]);
    out.extend([0; 96]);
    out.extend(1u16.to_le_bytes());
    out.extend(4u16.to_le_bytes());
    out.extend([0; 60]);
    out.extend(report_data);
    out
}
