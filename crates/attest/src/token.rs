//! Attestation results: a short-lived signed token in the shape of EAR (EAT Attestation Results) as a CWT,
//! for relying parties that do not verify evidence themselves.
//!
//! A token names its audience, the nonce it answers, the key it confirms and the policy that was applied.
//! The verifier's key is never in the token: it comes from the policy.

use ciborium::Value;
use dunlin_base::Digest;

use crate::bytes::Bytes;
use crate::cbor::{self, CborError, Fields};
use crate::claims::Class;
use crate::cose::{self, CoseError, Kind, SigningKey, VerifyingKey};
use crate::policy::appraisal::{Appraisal, Tier, TrustVector};
use crate::policy::model::MAX_TOKEN_SECONDS;
use crate::policy::sign::Policy;

const TOKEN: Kind =
    Kind { content_type: "application/eat+cwt; eat_profile=\"tag:dunlin-project,2026:ear\"", limit: 8192 };
const PROFILE: &str = "tag:dunlin-project,2026:ear";
const DEVELOPER: &str = "dunlin";
const SUBMODULE: &str = "keep";

/// Claim numbers of CWT, EAT and EAR.
const AUDIENCE: u64 = 3;
const EXPIRES: u64 = 4;
const ISSUED: u64 = 6;
const CONFIRMATION: u64 = 8;
const NONCE: u64 = 10;
const EAT_PROFILE: u64 = 265;
const SUBMODULES: u64 = 266;
const STATUS: u64 = 1000;
const VECTOR: u64 = 1001;
const POLICY_ID: u64 = 1003;
const VERIFIER_ID: u64 = 1004;
/// The member of a confirmation claim that names a key by its identifier.
const KEY_ID: u64 = 3;

/// Why no token was issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The policy denies.
    #[error("the policy denies these claims for {0} reason(s); a token is issued for accepted ones only")]
    Denied(usize),
    /// A preview has no session.
    #[error("the claims are not bound to a session")]
    NotBound,
    /// Longer than allowed.
    #[error("a token may live at most {limit} seconds here, not {asked}")]
    Lifetime {
        /// What was asked for.
        asked: u64,
        /// What is allowed.
        limit: u64,
    },
    /// Encoding.
    #[error("the token cannot be signed")]
    Signed(#[from] CoseError),
}

/// Issues a token about an accepted appraisal, for one audience. It expires `seconds` after the
/// appraisal, or earlier if what was verified ends earlier.
///
/// # Errors
///
/// When the appraisal is a denial, or the token would live too long.
pub fn issue(
    appraisal: &Appraisal,
    audience: &str,
    seconds: u64,
    verifier: &SigningKey,
) -> Result<Vec<u8>, IssueError> {
    if !appraisal.is_accepted() {
        return Err(IssueError::Denied(appraisal.reasons().len()));
    }
    let binding = appraisal.binding.as_ref().ok_or(IssueError::NotBound)?;
    let limit = appraisal.max_token_seconds.min(MAX_TOKEN_SECONDS);
    if seconds == 0 || seconds > limit {
        return Err(IssueError::Lifetime { asked: seconds, limit });
    }
    let expires = appraisal.now.saturating_add(seconds).min(appraisal.expires);
    let vector = Value::Map(appraisal.vector.parts().map(|(part, tier)| (part.into(), tier.number().into())).into());
    let optional = |text: Option<&str>| text.map_or(Value::Null, Into::into);
    let texts = |texts: Vec<String>| Value::Array(texts.into_iter().map(Value::Text).collect());
    let submodule = Value::Map(vec![
        (STATUS.into(), appraisal.vector.status().number().into()),
        (VECTOR.into(), vector),
        (POLICY_ID.into(), format!("sha256:{}", appraisal.policy_hash).into()),
        ("dunlin.binding".into(), Value::Bytes(binding.report_data().as_bytes().to_vec())),
        ("dunlin.class".into(), appraisal.class.name().into()),
        ("dunlin.epoch".into(), binding.epoch.into()),
        ("dunlin.insecure".into(), texts(appraisal.insecure.iter().map(|hole| (*hole).to_owned()).collect())),
        ("dunlin.module".into(), Value::Bytes(binding.module.0.to_vec())),
        ("dunlin.platform".into(), appraisal.platform.as_str().into()),
        ("dunlin.policy-version".into(), appraisal.policy_version.into()),
        ("dunlin.provider".into(), optional(appraisal.provider.as_deref())),
        ("dunlin.service".into(), binding.service.as_str().into()),
        ("dunlin.technology".into(), appraisal.technology.name().into()),
        ("dunlin.warnings".into(), texts(appraisal.warnings.clone())),
    ]);
    let build = env!("CARGO_PKG_VERSION");
    let payload = cbor::map([
        (AUDIENCE, audience.into()),
        (EXPIRES, expires.into()),
        (ISSUED, appraisal.now.into()),
        (CONFIRMATION, cbor::map([(KEY_ID, Value::Bytes(binding.instance_key.thumbprint().0.to_vec()))])),
        (NONCE, Value::Bytes(binding.peer_nonce.to_vec())),
        (EAT_PROFILE, PROFILE.into()),
        (SUBMODULES, cbor::map([(SUBMODULE, submodule)])),
        (VERIFIER_ID, cbor::map([(0, DEVELOPER.into()), (1, build.into())])),
    ]);
    Ok(cose::sign(TOKEN, cbor::encode(&payload), verifier)?)
}

/// What the relying party demands of a token.
#[derive(Debug, Clone, Copy)]
pub struct Expectation<'a> {
    /// Its own name.
    pub audience: &'a str,
    /// The nonce it gave to the attester.
    pub nonce: &'a [u8; 32],
    /// The key with which the attester proves that the token is its own.
    pub confirmation: &'a VerifyingKey,
    /// Seconds since 1970.
    pub now: u64,
}

/// A token that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The verifier that issued it.
    pub verifier: VerifyingKey,
    /// The trustworthiness vector.
    pub vector: TrustVector,
    /// The class of the claims.
    pub class: Class,
    /// The technology's name.
    pub technology: String,
    /// The machine.
    pub platform: String,
    /// The machine's provider.
    pub provider: Option<String>,
    /// The service.
    pub service: String,
    /// The ownership number of the service.
    pub epoch: u64,
    /// The module.
    pub module: Digest,
    /// The policy that was applied.
    pub policy: Digest,
    /// Its version.
    pub policy_version: u64,
    /// The holes that the policy leaves open.
    pub insecure: Vec<String>,
    /// What a person must see.
    pub warnings: Vec<String>,
    /// The report data of the session in which the evidence was given.
    pub binding: Bytes,
    /// When it was issued, and when it expires.
    pub issued: u64,
    /// The last second of validity.
    pub expires: u64,
}

/// Why a token was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The signature, or a header that brings its own key or critical fields.
    #[error("the token is not signed by a verifier that the policy names")]
    Signed(#[from] CoseError),
    /// The content.
    #[error("the token is malformed")]
    Cbor(#[from] CborError),
    /// A value that no verifier of this profile writes.
    #[error("the token's {0} is not one of this profile")]
    Value(&'static str),
    /// For somebody else.
    #[error("the token is for {found:?}, not for {expected:?}")]
    Audience {
        /// In the token.
        found: String,
        /// The relying party.
        expected: String,
    },
    /// For another challenge.
    #[error("the token answers another nonce: it is replayed")]
    Nonce,
    /// For another key.
    #[error("the token confirms another key than the one that was proven")]
    Confirmation,
    /// Under another policy.
    #[error("the token was issued under policy {found}, this is {expected}")]
    Policy {
        /// In the token.
        found: String,
        /// Here.
        expected: String,
    },
    /// Too old, too new, or living too long.
    #[error(
        "the token is valid from {issued} to {expires} (seconds since 1970), not at {now}, or for longer than {limit} seconds"
    )]
    Time {
        /// When it was issued.
        issued: u64,
        /// The last second.
        expires: u64,
        /// The time of the check.
        now: u64,
        /// The longest life.
        limit: u64,
    },
    /// Issued although the appraisal is bad, or below the floor.
    #[error("the token says {0}, which the policy does not accept")]
    Status(String),
}

/// Checks a token against the relying party's own policy and expectation.
///
/// # Errors
///
/// For tokens of others, for others, of other times, policies or challenges.
pub fn verify(token: &[u8], policy: &Policy, expect: &Expectation<'_>) -> Result<Token, TokenError> {
    let rules = &policy.document().token;
    let (payload, verifier) = cose::verify(TOKEN, token, &rules.verifiers)?;
    let mut fields = Fields::decode(&payload, TOKEN.limit)?;
    let audience = fields.text(AUDIENCE, "audience")?;
    let (issued, expires) = (fields.uint(ISSUED, "issued")?, fields.uint(EXPIRES, "expires")?);
    let nonce = fields.bytes(NONCE, "nonce")?;
    let mut confirmation = Fields::new(fields.take(CONFIRMATION, "confirmation")?, "confirmation")?;
    let confirmed = confirmation.bytes(KEY_ID, "key identifier")?;
    confirmation.finish()?;
    if fields.text(EAT_PROFILE, "profile")? != PROFILE {
        return Err(TokenError::Value("profile"));
    }
    let mut identity = Fields::new(fields.take(VERIFIER_ID, "verifier")?, "verifier")?;
    identity.text(0u64, "developer")?;
    identity.text(1u64, "build")?;
    identity.finish()?;
    let mut submodules = Fields::new(fields.take(SUBMODULES, "submodules")?, "submodules")?;
    let mut keep = Fields::new(submodules.take(SUBMODULE, "keep")?, "keep")?;
    submodules.finish()?;
    fields.finish()?;

    let vector = vector(keep.take(VECTOR, "trustworthiness vector")?)?;
    let status = keep.uint(STATUS, "status")?;
    let policy_id = keep.text(POLICY_ID, "policy")?;
    let class = keep.text("dunlin.class", "class")?;
    let provider = match keep.take("dunlin.provider", "provider")? {
        Value::Null => None,
        value => Some(cbor::text(value, "provider")?),
    };
    let mut texts = |key: &'static str| {
        keep.list(key, key)?.into_iter().map(|value| cbor::text(value, key)).collect::<Result<Vec<_>, _>>()
    };
    let (insecure, warnings) = (texts("dunlin.insecure")?, texts("dunlin.warnings")?);
    let known = [Class::Sim, Class::MeasuredHost, Class::HwTee].into_iter().find(|known| known.name() == class);
    let token = Token {
        verifier,
        vector,
        class: known.ok_or(TokenError::Value("class"))?,
        technology: keep.text("dunlin.technology", "technology")?,
        platform: keep.text("dunlin.platform", "platform")?,
        provider,
        service: keep.text("dunlin.service", "service")?,
        epoch: keep.uint("dunlin.epoch", "epoch")?,
        module: Digest(keep.array("dunlin.module", "module")?),
        policy: policy_id.parse().map_err(|_| TokenError::Value("policy"))?,
        policy_version: keep.uint("dunlin.policy-version", "policy version")?,
        insecure,
        warnings,
        binding: Bytes(keep.bytes("dunlin.binding", "binding")?),
        issued,
        expires,
    };
    keep.finish()?;

    if audience != expect.audience {
        return Err(TokenError::Audience { found: audience, expected: expect.audience.to_owned() });
    }
    if nonce != expect.nonce {
        return Err(TokenError::Nonce);
    }
    if confirmed != expect.confirmation.thumbprint().0 {
        return Err(TokenError::Confirmation);
    }
    if token.policy != policy.hash() {
        return Err(TokenError::Policy { found: token.policy.to_string(), expected: policy.hash().to_string() });
    }
    let (now, limit) = (expect.now, rules.max_seconds.min(MAX_TOKEN_SECONDS));
    if now < issued || now > expires || expires.saturating_sub(issued) > limit {
        return Err(TokenError::Time { issued, expires, now, limit });
    }
    let document = policy.document();
    if now < document.issued.seconds() || now > document.expires.seconds() {
        return Err(TokenError::Status("nothing any more: the policy does not apply now".to_owned()));
    }
    if status != token.vector.status().number() || status >= Tier::Contraindicated.number() {
        return Err(TokenError::Status(format!("status {status}")));
    }
    if token.class < policy.document().class_floor {
        return Err(TokenError::Status(format!("class {}", token.class)));
    }
    if token.service != policy.document().service {
        return Err(TokenError::Status(format!("service {:?}", token.service)));
    }
    Ok(token)
}

fn vector(value: Value) -> Result<TrustVector, TokenError> {
    let mut fields = Fields::new(value, "trustworthiness vector")?;
    let mut tier = |part: u64| {
        let number = fields.uint(part, "tier")?;
        Tier::of_number(number).ok_or(TokenError::Value("trustworthiness vector"))
    };
    let vector = TrustVector {
        instance_identity: tier(0)?,
        configuration: tier(1)?,
        executables: tier(2)?,
        hardware: tier(4)?,
        runtime_opaque: tier(5)?,
    };
    fields.finish()?;
    Ok(vector)
}
