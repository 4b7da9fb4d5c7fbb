//! SGX quotes, version 3.

use std::collections::BTreeMap;

use crate::bytes::Bytes;
use crate::claims::{Carried, ClaimSet, Class, SignerClaims, Technology, UnboundClaims};
use crate::error::VerifyError;
use crate::evidence::Endorsements;
use crate::roots::Roots;
use crate::verify::{dcap, measured_policies, statement};

/// Enclave attribute bits in the first byte.
const INIT: u8 = 0x01;
const DEBUG: u8 = 0x02;

pub(crate) fn verify<R: Roots>(
    quote: &[u8],
    endorsements: &Endorsements,
    now: u64,
    roots: &R,
) -> Result<UnboundClaims, VerifyError> {
    let technology = Technology::Sgx;
    let refused = |what: &str| VerifyError::Refused { technology, what: what.to_owned() };
    let claims = dcap::verify(technology, quote, endorsements, now, roots)?;
    let report = claims.report.as_sgx().ok_or_else(|| refused("its body is not an enclave report"))?;
    let [flags, ..] = report.attributes;
    if flags & INIT == 0 {
        return Err(refused("the enclave was not initialised"));
    }
    // With key separation and sharing the last 64 bytes of the third reserved area are the CONFIGID,
    // which the host chooses before launch and cannot change after it. Without it they are zero.
    let (_, config_id) = report.reserved3.split_at(32);
    let platform = dcap::platform(technology, &claims)?;
    let statement = statement(endorsements, &platform, now, roots)?;
    let set = ClaimSet {
        class: roots.class(Class::HwTee),
        technology,
        registers: BTreeMap::from([("mrenclave".to_owned(), Bytes::from(report.mr_enclave))]),
        signer: Some(SignerClaims {
            signer: Bytes::from(report.mr_signer),
            product: report.isv_prod_id.into(),
            svn: report.isv_svn.into(),
        }),
        debug: flags & DEBUG != 0,
        migratable: false,
        platform,
        provider: statement.as_ref().map(|(statement, _)| statement.provider.clone()),
        provider_key: statement.map(|(_, key)| key),
        host_data: Bytes::from(config_id),
        measured_policies: measured_policies(config_id),
        event_log: None,
        tcb: Some(dcap::tcb(&claims)),
        snp: None,
        tpm: None,
        expires: Some(claims.earliest_expiration_date),
        label: roots.label(),
    };
    Ok(UnboundClaims::new(set, Carried::Full(report.report_data)))
}
