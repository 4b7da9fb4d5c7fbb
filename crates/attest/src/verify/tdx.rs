//! TDX quotes, versions 4 and 5, of TDX 1.0, 1.5 and its extension.

use std::collections::BTreeMap;

use dcap_qvl::quote::TDAttributes;

use crate::bytes::Bytes;
use crate::claims::{Carried, ClaimSet, Class, Technology, UnboundClaims};
use crate::error::VerifyError;
use crate::evidence::Endorsements;
use crate::roots::Roots;
use crate::verify::{dcap, measured_policies, statement};

pub(crate) fn verify<R: Roots>(
    quote: &[u8],
    endorsements: &Endorsements,
    now: u64,
    roots: &R,
) -> Result<UnboundClaims, VerifyError> {
    let technology = Technology::Tdx;
    let refused = |what: String| VerifyError::Refused { technology, what };
    // The library refuses debug and migratable domains, profiling, reserved attribute bits, bound
    // service domains, and a TDX module that is not Intel's.
    let claims = dcap::verify(technology, quote, endorsements, now, roots)?;
    let report = claims.report.as_td10().ok_or_else(|| refused("its body is not a TD report".to_owned()))?;
    let attributes = TDAttributes::parse(report.td_attributes).map_err(|error| refused(error.to_string()))?;
    let registers = [
        ("mrtd", report.mr_td),
        ("mrseam", report.mr_seam),
        ("rtmr0", report.rt_mr0),
        ("rtmr1", report.rt_mr1),
        ("rtmr2", report.rt_mr2),
        ("rtmr3", report.rt_mr3),
        ("mrowner", report.mr_owner),
        ("mrownerconfig", report.mr_owner_config),
    ];
    let platform = dcap::platform(technology, &claims)?;
    let statement = statement(endorsements, &platform, now, roots)?;
    let set = ClaimSet {
        class: roots.class(Class::HwTee),
        technology,
        registers: BTreeMap::from(registers.map(|(name, value)| (name.to_owned(), Bytes::from(value)))),
        signer: None,
        debug: attributes.tud != 0,
        migratable: attributes.sec.migratable,
        platform,
        provider: statement.as_ref().map(|(statement, _)| statement.provider.clone()),
        provider_key: statement.map(|(_, key)| key),
        host_data: Bytes::from(report.mr_config_id),
        measured_policies: measured_policies(&report.mr_config_id),
        event_log: None,
        tcb: Some(dcap::tcb(&claims)),
        snp: None,
        tpm: None,
        expires: Some(claims.earliest_expiration_date),
        label: roots.label(),
    };
    Ok(UnboundClaims::new(set, Carried::Full(report.report_data)))
}
