//! Simulated platforms: a signed token that says what a TEE would have measured. It exercises everything
//! and proves nothing about the host, and says so wherever it is shown.

use std::collections::BTreeMap;

use ciborium::Value;
use dunlin_base::Digest;

use crate::binding::ReportData;
use crate::bytes::Bytes;
use crate::cbor::{self, CborError, Fields};
use crate::claims::{Carried, ClaimSet, Class, Technology, UnboundClaims};
use crate::cose::{self, CoseError, Kind, SigningKey};
use crate::error::VerifyError;
use crate::evidence::{Endorsements, Evidence};
use crate::platform::PlatformId;
use crate::roots::{Roots, SIM_LABEL};
use crate::verify::statement;

const TOKEN: Kind = Kind { content_type: "application/vnd.dunlin.sim+cbor", limit: 4096 };

/// What a simulated platform says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimStatement {
    /// The machine, as [`PlatformId::sim`] makes it.
    pub platform: PlatformId,
    /// The digest of the runtime's binary.
    pub runtime: Digest,
    /// The digest of the module.
    pub module: Digest,
    /// The policy that was given to the runtime at its start.
    pub policy: Digest,
}

impl SimStatement {
    /// Makes evidence. The key belongs to the simulated platform; a host that runs it can read it.
    ///
    /// # Errors
    ///
    /// When the statement cannot be encoded.
    pub fn evidence(&self, report_data: &ReportData, key: &SigningKey) -> Result<Evidence, CoseError> {
        let payload = cbor::encode(&cbor::map([
            (0, SIM_LABEL.into()),
            (1, self.platform.as_str().into()),
            (2, Value::Bytes(self.runtime.0.to_vec())),
            (3, Value::Bytes(self.module.0.to_vec())),
            (4, Value::Bytes(self.policy.0.to_vec())),
            (5, Value::Bytes(report_data.as_bytes().to_vec())),
        ]));
        cose::sign(TOKEN, payload, key).map(Evidence::Sim)
    }
}

pub(crate) fn verify<R: Roots>(
    token: &[u8],
    endorsements: &Endorsements,
    now: u64,
    roots: &R,
) -> Result<UnboundClaims, VerifyError> {
    let technology = Technology::Sim;
    if roots.sim_keys().is_empty() {
        return Err(VerifyError::NoRoot { technology, roots: roots.name() });
    }
    let (payload, _) = cose::verify(TOKEN, token, roots.sim_keys())
        .map_err(|source| VerifyError::Signed { what: "simulated evidence", source })?;
    let (said, report_data) =
        parse(&payload).map_err(|error| VerifyError::Malformed { technology, what: error.to_string() })?;
    let platform = said.platform;
    let statement = statement(endorsements, &platform, now, roots)?;
    let registers = [("runtime", said.runtime), ("module", said.module)];
    let set = ClaimSet {
        // Whatever the roots say: this technology is never more.
        class: Class::Sim,
        technology,
        registers: BTreeMap::from(registers.map(|(name, digest)| (name.to_owned(), Bytes::from(digest.0)))),
        signer: None,
        debug: false,
        migratable: false,
        platform,
        provider: statement.as_ref().map(|(statement, _)| statement.provider.clone()),
        provider_key: statement.map(|(_, key)| key),
        host_data: Bytes::from(said.policy.0),
        measured_policies: vec![said.policy],
        event_log: None,
        tcb: None,
        snp: None,
        tpm: None,
        expires: None,
        label: Some(SIM_LABEL.to_owned()),
    };
    Ok(UnboundClaims::new(set, Carried::Full(report_data)))
}

fn parse(payload: &[u8]) -> Result<(SimStatement, [u8; 64]), CborError> {
    let mut fields = Fields::decode(payload, TOKEN.limit)?;
    if fields.text(0, "label")? != SIM_LABEL {
        return Err(CborError::Type { field: "label", expected: "the label of simulated evidence" });
    }
    let platform: PlatformId = fields
        .text(1, "platform")?
        .parse()
        .map_err(|_| CborError::Type { field: "platform", expected: "a platform id" })?;
    if !platform.as_str().starts_with("sim:") {
        return Err(CborError::Type { field: "platform", expected: "the id of a simulated platform" });
    }
    let said = SimStatement {
        platform,
        runtime: Digest(fields.array(2, "runtime")?),
        module: Digest(fields.array(3, "module")?),
        policy: Digest(fields.array(4, "policy")?),
    };
    let report_data = fields.array(5, "report data")?;
    fields.finish()?;
    Ok((said, report_data))
}

/// For tests about tokens that no simulated platform makes.
#[cfg(test)]
pub(crate) fn sign_unchecked(payload: Vec<u8>, key: &SigningKey) -> Result<Vec<u8>, CoseError> {
    cose::sign(TOKEN, payload, key)
}
