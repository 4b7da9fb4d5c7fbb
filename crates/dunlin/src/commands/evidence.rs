//! `dunlin evidence`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use dunlin_attest::{
    AmdCollateral, Appraisal, AppraisalContext, BindingContext, Bytes, ClaimSet, Collateral, Endorsements, Evidence,
    Moment, Policy, Rule, SimRoots, Technology, TrustRoots, UnboundClaims, Verifier, VerifyError, VerifyingKey,
};
use serde::Serialize;

use crate::failure::{Exit, Failure, Result};
use crate::report::run::json;
use crate::{file, keys, text};

/// Look into evidence of a platform, and appraise it: offline, at any time
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct EvidenceCommand {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[command(before_help = SHOW, after_help = EXIT_CODES)]
    Show(Show),
    #[command(before_help = VERIFY, after_help = EXIT_CODES)]
    Verify(Verify),
}

const SHOW: &str = "\
Examples:
  dunlin evidence show machine.evidence
  dunlin evidence show --as sgx --collateral quote.json --at 2025-07-01T00:00:00Z quote.bin";

const VERIFY: &str = "\
Examples:
  dunlin evidence verify --policy shop.policy --owner 02ab... machine.evidence
  dunlin evidence verify --policy shop.policy --owner owner.pub --binding session.binding machine.evidence";

const EXIT_CODES: &str = "\
Exit codes: 0 (verify without --binding: only the session is missing); 1 the evidence is refused; 64 wrong usage; 65 a file is not valid; 66 it cannot be opened";

/// What evidence says, if it is genuine
#[derive(Debug, Args)]
struct Show {
    #[command(flatten)]
    source: Source,
}

/// What an owner's policy says of evidence: every check that fails, by name
#[derive(Debug, Args)]
struct Verify {
    #[command(flatten)]
    source: Source,
    /// The signed policy
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// A key of the policy's owner: digits, or a file with them
    #[arg(long, value_name = "KEY", value_parser = keys::public, required = true)]
    owner: Vec<VerifyingKey>,
    /// What the evidence must be bound to; without it the answer is a preview that never accepts
    #[arg(long, value_name = "FILE")]
    binding: Option<PathBuf>,
    /// The nonce that was sent, 64 digits: the binding must answer it
    #[arg(long, value_name = "DIGITS", value_parser = keys::digits, requires = "binding")]
    challenge: Option<Bytes>,
}

#[derive(Debug, Args)]
struct Source {
    /// Evidence in Dunlin's container, or a platform's own bytes with --as
    file: PathBuf,
    /// The file holds the bytes of this technology, without a container
    #[arg(long = "as", value_name = "TECHNOLOGY", value_enum)]
    raw: Option<Raw>,
    /// Endorsements in Dunlin's container
    #[arg(long, value_name = "FILE", conflicts_with_all = ["collateral", "statement"])]
    endorsements: Option<PathBuf>,
    /// The vendor's collateral: Intel's as JSON, AMD's VCEK in DER
    #[arg(long, value_name = "FILE")]
    collateral: Option<PathBuf>,
    /// The provider's signed statement about the machine
    #[arg(long, value_name = "FILE")]
    statement: Option<PathBuf>,
    /// Accept the simulated machine of this name; may be repeated. Everything is class sim then
    #[arg(long, value_name = "NAME")]
    sim: Vec<String>,
    /// The time of the check instead of now, as 2026-11-20T12:00:00Z
    #[arg(long, value_name = "TIME")]
    at: Option<Moment>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Raw {
    Sgx,
    Tdx,
    Snp,
}

pub(crate) fn run(command: &EvidenceCommand) -> Result<ExitCode> {
    match &command.command {
        Verb::Show(Show { source }) => {
            let input = Input::read(source)?;
            let outcome = input.inspect(&TrustRoots::vendor(), source)?;
            Report::new(&input, outcome.as_ref().map(UnboundClaims::claims), None).print(source.json)
        }
        Verb::Verify(verify) => run_verify(verify),
    }
}

fn run_verify(verify: &Verify) -> Result<ExitCode> {
    let Verify { source, policy, owner, binding, challenge } = verify;
    let input = Input::read(source)?;
    let object = file::read(policy)?;
    let refused = || format!("{} is refused", policy.display());
    if str::from_utf8(&object).is_ok_and(|text| dunlin_attest::PolicyDocument::parse(text).is_ok()) {
        let text = format!("{} is not signed; its owner does that by dunlin policy sign", policy.display());
        return Err(Failure::new(Exit::Data, text));
    }
    let text = Policy::signed_text(&object, owner).map_err(Failure::because(Exit::Data, refused()))?;
    let document = dunlin_attest::PolicyDocument::parse(&text).map_err(Failure::because(Exit::Data, refused()))?;
    let policy =
        Policy::verify(&object, &document.service, owner, None).map_err(Failure::because(Exit::Data, refused()))?;
    let binding = binding.as_deref().map(|path| read_binding(path, challenge.as_ref())).transpose()?;
    let inspected = input.inspect(&TrustRoots::for_policy(&policy), source)?;
    let claims = match inspected {
        Ok(claims) => claims,
        Err(error) => return Report::new(&input, Err(&error), None).print(source.json),
    };
    let Some(binding) = binding else {
        let appraisal = policy.preview(&claims, input.now);
        return Report::new(&input, Ok(claims.claims()), Some(&appraisal)).print(source.json);
    };
    match claims.bind(&binding.report_data()) {
        Err(error) => Report::new(&input, Err(&error), None).print(source.json),
        Ok(claims) => {
            let context = AppraisalContext {
                now: input.now,
                binding: &binding,
                role: binding.role,
                source: None,
                tpm_last_seen: None,
            };
            let appraisal = policy.appraise(&claims, &context);
            Report::new(&input, Ok(&claims), Some(&appraisal)).print(source.json)
        }
    }
}

fn read_binding(path: &Path, challenge: Option<&Bytes>) -> Result<BindingContext> {
    let binding = BindingContext::from_cbor(&file::read(path)?)
        .map_err(Failure::because(Exit::Data, format!("{} is not a binding context", path.display())))?;
    match challenge {
        Some(challenge) if challenge.0 != binding.peer_nonce => {
            Err(Failure::new(Exit::Data, format!("{} answers another challenge than yours", path.display())))
        }
        _ => Ok(binding),
    }
}

/// What was given.
struct Input {
    evidence: Evidence,
    endorsements: Endorsements,
    now: u64,
}

impl Input {
    fn read(source: &Source) -> Result<Self> {
        let Source { file: path, raw, endorsements, collateral, statement, sim: _, at, json: _ } = source;
        let bytes = file::read(path)?;
        let evidence = match raw {
            Some(Raw::Sgx) => Evidence::sgx_from_buffer(&bytes),
            Some(Raw::Tdx) => Evidence::tdx_from_buffer(&bytes),
            Some(Raw::Snp) => Evidence::Snp(bytes),
            None => Evidence::from_cbor(&bytes).map_err(Failure::because(
                Exit::Data,
                format!("{} is not evidence in a container; for a platform's own bytes give --as", path.display()),
            ))?,
        };
        let endorsements = match endorsements {
            Some(path) => Endorsements::from_cbor(&file::read(path)?)
                .map_err(Failure::because(Exit::Data, format!("{} is not endorsements", path.display())))?,
            None => {
                let collateral = match (collateral, &evidence) {
                    (None, _) => Collateral::None,
                    (Some(path), Evidence::Snp(_)) => {
                        Collateral::Amd(AmdCollateral { vek: file::read(path)?, ..AmdCollateral::default() })
                    }
                    (Some(path), _) => Collateral::Intel(file::read(path)?),
                };
                Endorsements { collateral, statement: statement.as_deref().map(file::read).transpose()? }
            }
        };
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Ok(Self { evidence, endorsements, now: at.map_or_else(clock, |at| at.seconds()) })
    }

    /// The outer error is about the command line, the inner one about the evidence.
    fn inspect(&self, roots: &TrustRoots, source: &Source) -> Result<Result<UnboundClaims, VerifyError>> {
        if source.sim.is_empty() {
            return Ok(Verifier::inspect(&self.evidence, &self.endorsements, self.now, roots));
        }
        let names = source.sim.iter().map(String::as_str);
        let roots: SimRoots = dunlin_attest_sim::roots(names)
            .map_err(Failure::because(Exit::Usage, "a name of a simulated machine is unusable"))?;
        Ok(Verifier::inspect(&self.evidence, &self.endorsements, self.now, &roots))
    }
}

/// What is said of the evidence.
#[derive(Debug, Serialize)]
struct Report<'a> {
    technology: &'static str,
    /// Seconds since 1970.
    checked_at: u64,
    /// Whether the evidence is genuine and of now.
    genuine: bool,
    /// What the verifier says against it: the outermost cause first.
    refused: Vec<String>,
    claims: Option<&'a ClaimSet>,
    appraisal: Option<AppraisalReport>,
}

#[derive(Debug, Serialize)]
struct AppraisalReport {
    accepted: bool,
    /// Without a session: what is missing then is only the session, or more.
    preview: bool,
    /// Whether nothing but the missing session speaks against it.
    otherwise_good: bool,
    failed: Vec<Failed>,
    warnings: Vec<String>,
    provider: Option<String>,
}

#[derive(Debug, Serialize)]
struct Failed {
    rule: String,
    detail: String,
}

impl<'a> Report<'a> {
    fn new(input: &Input, claims: Result<&'a ClaimSet, &VerifyError>, appraisal: Option<&Appraisal>) -> Self {
        let mut refused = claims.as_ref().err().map(|error| causes(*error)).unwrap_or_default();
        if let Err(VerifyError::NoRoot { technology: Technology::Sim, .. }) = claims {
            refused.push("simulated machines are believed only by name: --sim NAME".to_owned());
        }
        let appraisal = appraisal.map(|appraisal| {
            let failed = |reason: &dunlin_attest::Reason| Failed {
                rule: format!("{:?}", reason.rule),
                detail: reason.detail.clone(),
            };
            AppraisalReport {
                accepted: appraisal.is_accepted(),
                preview: appraisal.breaks(Rule::NotBound),
                otherwise_good: appraisal.reasons().iter().all(|reason| reason.rule == Rule::NotBound),
                failed: appraisal.reasons().iter().map(failed).collect(),
                warnings: appraisal.warnings().to_vec(),
                provider: appraisal.provider().map(str::to_owned),
            }
        });
        Self {
            technology: input.evidence.technology().name(),
            checked_at: input.now,
            genuine: claims.is_ok(),
            refused,
            claims: claims.ok(),
            appraisal,
        }
    }

    fn print(&self, as_json: bool) -> Result<ExitCode> {
        text::print(&if as_json { json(self)? } else { self.text() });
        let good = self.genuine && self.appraisal.as_ref().is_none_or(|appraisal| appraisal.otherwise_good);
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        if let Some(label) = self.claims.and_then(|claims| claims.label.as_deref()) {
            let _ = writeln!(out, "*** {label} ***\n");
        }
        if !self.genuine {
            let _ = writeln!(out, "REFUSED: {} evidence", self.technology);
            for cause in &self.refused {
                let _ = writeln!(out, "  {}", text::printable(cause));
            }
            return out;
        }
        if let Some(claims) = self.claims {
            claims_text(claims, &mut out);
        }
        if let Some(appraisal) = &self.appraisal {
            appraisal.text(&mut out);
        }
        out
    }
}

impl AppraisalReport {
    fn text(&self, out: &mut String) {
        let verdict = match (self.accepted, self.preview, self.otherwise_good) {
            (true, ..) => "ACCEPTED by the policy",
            (_, true, true) => "no rule of the policy fails; evidence without a session is never accepted",
            _ => "REFUSED by the policy",
        };
        let _ = writeln!(out, "\n{verdict}");
        for Failed { rule, detail } in &self.failed {
            let _ = writeln!(out, "  {rule}: {}", text::printable(detail));
        }
        for warning in &self.warnings {
            let _ = writeln!(out, "  warning: {}", text::printable(warning));
        }
    }
}

fn claims_text(claims: &ClaimSet, out: &mut String) {
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<18} {}", text::printable(&value));
    };
    line("technology", claims.technology.to_string());
    line(
        "class",
        format!(
            "{}{}",
            claims.class,
            match claims.class {
                dunlin_attest::Class::MeasuredHost => " (root on the host can read memory)",
                dunlin_attest::Class::Sim => " (proves nothing about the host)",
                dunlin_attest::Class::HwTee => "",
            }
        ),
    );
    line("platform", claims.platform.to_string());
    line("provider", claims.provider.clone().unwrap_or_else(|| "(no statement)".to_owned()));
    line("debug", if claims.debug { "ON: the host may look in".to_owned() } else { "off".to_owned() });
    for (name, value) in &claims.registers {
        line(name, value.to_string());
    }
    if let Some(signer) = &claims.signer {
        line("signer", format!("{} product {} svn {}", signer.signer, signer.product, signer.svn));
    }
    for policy in &claims.measured_policies {
        line("measured policy", policy.to_string());
    }
    if let Some(tcb) = &claims.tcb {
        line("TCB status", format!("{:?} (data set {})", tcb.status, tcb.evaluation));
        line("advisories", if tcb.advisories.is_empty() { "none".to_owned() } else { tcb.advisories.join(", ") });
    }
    if let Some(snp) = &claims.snp {
        line("product", snp.product.clone());
        for (name, tcb) in
            [("reported", snp.tcb.reported), ("committed", snp.tcb.committed), ("launch", snp.tcb.launch)]
        {
            line(&format!("TCB {name}"), tcb.to_string());
        }
        line("VMPL", snp.vmpl.to_string());
    }
    if let Some(tpm) = &claims.tpm {
        line("resets, restarts", format!("{}, {}", tpm.reset_count, tpm.restart_count));
    }
    if let Some(expires) = claims.expires {
        line("holds until", format!("{expires} (seconds since 1970)"));
    }
}

/// An error and its causes, each once.
fn causes(error: &dyn std::error::Error) -> Vec<String> {
    let mut all = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        let message = cause.to_string();
        if all.last() != Some(&message) {
            all.push(message);
        }
        next = cause.source();
    }
    all
}
