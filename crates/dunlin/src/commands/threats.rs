//! `dunlin threats`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::failure::Result;
use crate::report::run::json;
use crate::text;

/// The threat model: what is done against each threat, and the test that shows it
#[derive(Debug, Args)]
pub(crate) struct Threats {
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) const EXAMPLES: &str = "\
Examples:
  dunlin threats
  dunlin threats --json";

/// The document is the source, so that the two cannot differ.
const MODEL: &str = include_str!("../../../../docs/threat-model.md");

/// One row of the table of threats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Threat {
    pub(crate) id: String,
    pub(crate) threat: String,
    pub(crate) answer: String,
    /// Empty for what is out of scope.
    pub(crate) tests: Vec<String>,
}

pub(crate) fn run(threats: &Threats) -> Result<ExitCode> {
    let all = parse(MODEL);
    let mut plain = String::new();
    for Threat { id, threat, answer, tests } in &all {
        let tests = if tests.is_empty() { "not protected".to_owned() } else { tests.join("\n       test: ") };
        let tests = if tests == "not protected" { tests } else { format!("test: {tests}") };
        plain.push_str(&format!("{id:<6} {threat}\n       {answer}\n       {tests}\n"));
    }
    text::print(&if threats.json { json(&all)? } else { plain });
    Ok(ExitCode::SUCCESS)
}

/// Rows of four cells whose first is an identifier: a capital letter and a number.
pub(crate) fn parse(document: &str) -> Vec<Threat> {
    let row = |line: &str| {
        let cells = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        let cells: Vec<_> = cells.split('|').map(str::trim).collect();
        let [id, threat, answer, tests] = cells[..] else { return None };
        let mut letters = id.chars();
        let named = letters.next().is_some_and(|first| first.is_ascii_uppercase())
            && !letters.as_str().is_empty()
            && letters.all(|letter| letter.is_ascii_digit());
        // Names of tests are the only things in backquotes in the last cell.
        let tests = tests.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        named.then(|| Threat { id: id.to_owned(), threat: threat.to_owned(), answer: answer.to_owned(), tests })
    };
    document.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_test_that_the_threat_model_names_exists() {
        let threats = parse(MODEL);
        assert!(threats.len() >= 40, "{}", threats.len());
        let ids: BTreeSet<_> = threats.iter().map(|threat| &threat.id).collect();
        assert_eq!(ids.len(), threats.len(), "two threats have one identifier");
        let mut known = BTreeSet::new();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates"), &mut known);
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/fuzz_targets"), &mut known);
        for Threat { id, tests, answer, .. } in &threats {
            assert!(!tests.is_empty() || answer.starts_with("Not protected"), "{id} has neither test nor excuse");
            for test in tests {
                assert!(known.contains(test), "{id} names {test}, which is no test in this tree");
            }
        }
        // Each item of the attack list that has a test is named by some threat, or is beside them as a positive one.
        let named: BTreeSet<_> = threats.iter().flat_map(|threat| &threat.tests).collect();
        let numbered = |name: &&String| {
            let (letter, rest) = name.split_at(1);
            "etbp".contains(letter)
                && rest.len() > 2
                && rest.split('_').next().is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        };
        for test in known.iter().filter(numbered) {
            assert!(named.contains(test), "{test} is a test of the attack list, but no threat names it");
        }
    }

    /// Names of test functions in `.rs` files, and of fuzz targets.
    fn collect(directory: &Path, known: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, known);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                if text.contains("fuzz_target!") {
                    known.insert(path.file_stem().unwrap().to_string_lossy().into_owned());
                }
                let mut is_test = false;
                for line in text.lines().map(str::trim) {
                    if line.starts_with("#[test]") {
                        is_test = true;
                    } else if let Some(name) = line.strip_prefix("fn ").filter(|_| is_test) {
                        known.insert(name.split('(').next().unwrap().to_owned());
                        is_test = false;
                    }
                }
            }
        }
    }
}
