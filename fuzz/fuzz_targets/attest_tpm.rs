//! Goal: what a TPM, a disk or a machine to be enrolled sends ends in a value or an error: responses, sealed secrets,
//! event logs, endorsement keys and their certificates, attestations, certificate tables.
//!
//! Method: the first byte chooses the parser.

#![no_main]

use dunlin_attest::TpmSigned;
use dunlin_attest_tpm::{EkCertificate, EkPublic, EnrolRequest, PendingEnrolment, ProviderCa, Sealed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    // One length byte divides the rest where two or three inputs are needed.
    let cut = |bytes: &[u8]| {
        let (length, bytes) = bytes.split_first().unwrap_or((&0, &[]));
        let (one, two) = bytes.split_at((usize::from(*length) * 4).min(bytes.len()));
        (one.to_vec(), two.to_vec())
    };
    match choice % 8 {
        0 => drop(dunlin_attest_tpm::parse_response("fuzz", rest.len() % 2 == 0, rest)),
        1 => {
            if let Ok(sealed) = Sealed::from_bytes(rest) {
                assert_eq!(sealed.to_bytes(), rest, "the blob is not canonical");
            }
        }
        2 => drop(std::str::from_utf8(rest).map(dunlin_attest_tpm::parse_event_log)),
        3 => drop(EkPublic::parse(rest)),
        4 => drop(EkCertificate::from_nv(rest)),
        5 => {
            let (attest, rest) = cut(rest);
            let (signature, public) = cut(&rest);
            let _ = TpmSigned::verify(&attest, &signature, &public);
        }
        6 => drop(dunlin_attest_tee::parse_certificate_table(rest)),
        _ => {
            let (ca, rest) = cut(rest);
            let (ek_certificate, rest) = cut(&rest);
            let (ek_public, ak_public) = cut(&rest);
            let Ok(ca) = ProviderCa::parse(&ca) else { return };
            let _ = PendingEnrolment::begin(EnrolRequest { ek_certificate, ek_public, ak_public }, &ca, 1_795_132_800);
        }
    }
});
