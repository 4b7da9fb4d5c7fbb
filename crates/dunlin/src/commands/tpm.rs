//! `dunlin tpm`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use dunlin_attest_tpm::{Device, EkKind, PendingEnrolment, ProviderCa, Tpm, answer, request};
use serde::Serialize;

use crate::failure::{Exit, Failure, Result};
use crate::report::run::json;
use crate::{file, keys, text};

/// Enrol a machine by its TPM
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct TpmCommand {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[command(before_help = ENROLL, after_help = EXIT_CODES)]
    Enroll(Enroll),
}

const ENROLL: &str = "\
Examples:
  dunlin tpm enroll --ca maker.pem --provider acme --key acme.key -o machine.statement
  dunlin tpm enroll --tpm swtpm:path=/run/tpm.sock --ca ca.pem --provider acme --key acme.key -o machine.statement";

const EXIT_CODES: &str = "\
Exit codes: 0; 64 wrong usage; 65 a file is not valid; 66 it cannot be opened; 69 no TPM, or it is refused;
73 a file cannot be written";

/// Check that the TPM is one of the provider's, and sign a statement about the machine
#[derive(Debug, Args)]
struct Enroll {
    /// The TPM: a device, or the Unix socket of a software TPM as swtpm:path=FILE
    #[arg(long, value_name = "DEVICE", default_value = dunlin_attesters::TPM_DEVICE)]
    tpm: Device,
    /// The authorities that issue the certificates of the provider's TPMs, in PEM
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// The provider's name, as owners' policies write it
    #[arg(long, value_name = "NAME")]
    provider: String,
    /// The provider's secret key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// How long the statement holds
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    days: u64,
    /// Which endorsement key; without it the first one that has a certificate
    #[arg(long, value_name = "KIND", value_enum)]
    ek: Option<Ek>,
    /// Where to write the signed statement
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ek {
    Rsa2048,
    P256,
    P384,
}

#[derive(Debug, Serialize)]
struct Enrolled {
    provider: String,
    platform: String,
    attestation_key: String,
    reset_count: u32,
    not_after: u64,
}

pub(crate) fn run(command: &TpmCommand) -> Result<ExitCode> {
    let Verb::Enroll(Enroll { tpm: device, ca, provider, key, days, ek, output, json: as_json }) = &command.command;
    let key = keys::secret(key)?;
    let authorities = ProviderCa::parse(&file::read(ca)?)
        .map_err(Failure::because(Exit::Data, format!("{} holds no authority", ca.display())))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let kind = ek.map(|ek| match ek {
        Ek::Rsa2048 => EkKind::Rsa2048,
        Ek::P256 => EkKind::P256,
        Ek::P384 => EkKind::P384,
    });
    let refused = || format!("the TPM at {device} is not enrolled");
    let enrol = || {
        let mut tpm = Tpm::open(device)?;
        let asked = request(&mut tpm, kind)?;
        let pending = PendingEnrolment::begin(asked.clone(), &authorities, now)?;
        let answered = answer(&mut tpm, &asked, pending.challenge())?;
        let until = now.saturating_add(days.saturating_mul(86_400));
        pending.finish(&answered, provider, now.saturating_sub(300), until)
    };
    let statement = enrol().map_err(Failure::because(Exit::Unavailable, refused()))?;
    let signed = statement.sign(&key).map_err(Failure::because(Exit::Software, "the statement cannot be encoded"))?;
    file::write_atomically(output, &signed)?;
    let (ak, reset_count) =
        statement.tpm.as_ref().map_or((String::new(), 0), |tpm| (tpm.ak_name.to_string(), tpm.reset_count));
    let enrolled = Enrolled {
        provider: statement.provider.clone(),
        platform: statement.platform.to_string(),
        attestation_key: ak,
        reset_count,
        not_after: statement.not_after,
    };
    let plain = format!("{} is a machine of {}\n", enrolled.platform, enrolled.provider);
    text::print(&if *as_json { json(&enrolled)? } else { plain });
    Ok(ExitCode::SUCCESS)
}
