//! `dunlin policy`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use dunlin_attest::{Policy, PolicyDocument, VerifyingKey, diff, explain, lint};
use dunlin_base::Digest;
use serde::Serialize;

use crate::failure::{Exit, Failure, Result};
use crate::report::run::json;
use crate::{file, keys, text};

/// Write, understand, compare and sign an owner's policy
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct PolicyCommand {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[command(before_help = LINT, after_help = "Exit codes: 0; 1 there are errors; 64, 65, 66 as everywhere")]
    Lint(Reading),
    /// The policy in plain sentences
    Explain(Reading),
    #[command(before_help = DIFF, after_help = "Exit codes: 0 nothing weaker; 1 something is weaker; 64, 65, 66 as everywhere")]
    Diff(Diff),
    #[command(before_help = SIGN)]
    Sign(Sign),
    Keygen(Keygen),
}

const LINT: &str = "\
Examples:
  dunlin policy lint shop.toml
  dunlin policy lint --owner owner.pub shop.policy";

const DIFF: &str = "\
Examples:
  dunlin policy diff old.toml new.toml     what becomes weaker, and what stricter";

const SIGN: &str = "\
Examples:
  dunlin policy keygen owner.key > owner.pub
  dunlin policy sign --key owner.key -o shop.policy shop.toml";

/// What is wrong or dangerous, the worst first
#[derive(Debug, Args)]
struct Reading {
    /// The policy as text, or signed
    file: PathBuf,
    /// For a signed policy: a key of its owner
    #[arg(long, value_name = "KEY", value_parser = keys::public)]
    owner: Vec<VerifyingKey>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What changes from one policy to the next, and in which direction
#[derive(Debug, Args)]
struct Diff {
    /// The policy before, as text or signed
    old: PathBuf,
    /// The policy after, as text or signed
    new: PathBuf,
    /// For signed policies: a key of the owner
    #[arg(long, value_name = "KEY", value_parser = keys::public)]
    owner: Vec<VerifyingKey>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Sign a policy, unless it contradicts itself
#[derive(Debug, Args)]
struct Sign {
    /// The policy as text
    file: PathBuf,
    /// The owner's secret key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where to write the signed policy
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Make a secret key, and print its public half
#[derive(Debug, Args)]
struct Keygen {
    /// Where to write the secret key; an existing file is not replaced
    file: PathBuf,
}

pub(crate) fn run(command: &PolicyCommand) -> Result<ExitCode> {
    match &command.command {
        Verb::Lint(Reading { file, owner, json: as_json }) => {
            let findings = lint::lint(&read(file, owner)?);
            let errors = findings.iter().any(|finding| finding.severity == lint::Severity::Error);
            let shown: Vec<_> = findings.iter().map(Finding::of).collect();
            let mut plain: String =
                shown.iter().map(|f| format!("{}: {}: {}\n", f.severity, f.place, f.text)).collect();
            if plain.is_empty() {
                plain.push_str("nothing to say against it\n");
            }
            text::print(&if *as_json { json(&shown)? } else { plain });
            Ok(if errors { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Verb::Explain(Reading { file, owner, json: as_json }) => {
            let sentences = explain::explain(&read(file, owner)?);
            text::print(&if *as_json { json(&sentences)? } else { sentences.join("\n") + "\n" });
            Ok(ExitCode::SUCCESS)
        }
        Verb::Diff(Diff { old, new, owner, json: as_json }) => {
            let changes = diff::diff(&read(old, owner)?, &read(new, owner)?)
                .map_err(Failure::because(Exit::Software, "the policies cannot be compared"))?;
            let weaker = changes.iter().any(|change| change.effect == diff::Effect::Weaker);
            let shown: Vec<_> = changes.iter().map(Change::of).collect();
            let mut plain = String::new();
            for change in &changes {
                let _ = writeln!(plain, "{change}");
            }
            if plain.is_empty() {
                plain.push_str("the policies say the same\n");
            }
            text::print(&if *as_json { json(&shown)? } else { plain });
            Ok(if weaker { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Verb::Sign(Sign { file: path, key, output }) => {
            let text = text_of(path)?;
            let key = keys::secret(key)?;
            let signed = Policy::sign(&text, &key)
                .map_err(Failure::because(Exit::Data, format!("{} is not signed", path.display())))?;
            file::write_atomically(output, &signed)?;
            text::note(format!("policy {} signed by {}", Digest::of(text.as_bytes()), key.verifying_key()));
            Ok(ExitCode::SUCCESS)
        }
        Verb::Keygen(Keygen { file }) => {
            text::print(&format!("{}\n", keys::create(file)?));
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[derive(Debug, Serialize)]
struct Finding {
    severity: String,
    place: String,
    text: String,
}

impl Finding {
    fn of(finding: &lint::Finding) -> Self {
        let lint::Finding { severity, place, text } = finding;
        Self { severity: format!("{severity:?}").to_lowercase(), place: place.clone(), text: text.clone() }
    }
}

#[derive(Debug, Serialize)]
struct Change {
    effect: String,
    place: String,
    old: Option<String>,
    new: Option<String>,
}

impl Change {
    fn of(change: &diff::Change) -> Self {
        let diff::Change { place, old, new, effect } = change;
        let effect = format!("{effect:?}").to_lowercase();
        Self { effect, place: place.clone(), old: old.clone(), new: new.clone() }
    }
}

fn text_of(path: &Path) -> Result<String> {
    String::from_utf8(file::read(path)?)
        .map_err(Failure::because(Exit::Data, format!("{} is not text; is it signed already?", path.display())))
}

/// A policy as text; with keys of owners it must be signed by one of them.
fn read(path: &Path, owners: &[VerifyingKey]) -> Result<PolicyDocument> {
    let refused = || format!("{} is refused", path.display());
    let text = if owners.is_empty() {
        text_of(path)?
    } else {
        Policy::signed_text(&file::read(path)?, owners).map_err(Failure::because(Exit::Data, refused()))?
    };
    PolicyDocument::parse(&text).map_err(Failure::because(Exit::Data, refused()))
}
