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
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_test_that_the_threat_model_names_exists() {
        let threats = parse(MODEL);
        let ids: BTreeSet<_> = threats.iter().map(|threat| threat.id.as_str()).collect();
        assert_eq!(ids.len(), threats.len(), "two threats have one identifier");
        let known = known();
        for Threat { id, tests, answer, .. } in &threats {
            assert!(!tests.is_empty() || answer.starts_with("Not protected"), "{id} has neither test nor excuse");
            for test in tests {
                let count = known.get(test).copied().unwrap_or_default();
                assert_eq!(count, 1, "{id} names {test}, which must be the name of one test in this tree");
            }
        }
    }

    /// The list of attacks, item by item: each has a test of its own, whose name begins with it.
    #[test]
    fn every_attack_of_the_list_has_a_test_that_is_named_after_it() {
        let threats = parse(MODEL);
        for (letter, count) in [('E', 28), ('T', 16), ('B', 15), ('P', 9), ('S', 13)] {
            for number in 1..=count {
                let id = format!("{letter}{number}");
                let threat = threats.iter().find(|threat| threat.id == id).unwrap_or_else(|| panic!("{id} is missing"));
                let own = |test: &String| items(test).contains(&(letter.to_ascii_lowercase(), number));
                assert!(threat.tests.iter().any(own), "{id} has no test that is named after it: {:?}", threat.tests);
            }
        }
        // And no test of the list is forgotten.
        let named: BTreeSet<_> = threats.iter().flat_map(|threat| &threat.tests).collect();
        for test in known().keys().filter(|test| !items(test).is_empty()) {
            assert!(named.contains(test), "{test} is a test of the attack list, but no threat names it");
        }
    }

    /// The items of the list that a test's name begins with: `b05_b07_...` has two.
    fn items(test: &str) -> Vec<(char, u32)> {
        let item = |word: &str| {
            let letter = word.chars().next().filter(|letter| "etbpsmlx".contains(*letter))?;
            Some((letter, word[1..].parse().ok()?))
        };
        test.split('_').map_while(item).collect()
    }

    /// Names of tests and fuzz targets, and how many have each.
    fn known() -> BTreeMap<String, u32> {
        let mut known = BTreeMap::new();
        for folder in ["crates", "fuzz/fuzz_targets"] {
            collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder), &mut known);
        }
        known
    }

    /// Names of test functions in `.rs` files, and of fuzz targets.
    fn collect(directory: &Path, known: &mut BTreeMap<String, u32>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, known);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                if text.contains("fuzz_target!") {
                    *known.entry(path.file_stem().unwrap().to_string_lossy().into_owned()).or_default() += 1;
                }
                let mut is_test = false;
                for line in text.lines().map(str::trim) {
                    if line.starts_with("#[test]") {
                        is_test = true;
                    } else if let Some(name) = line.strip_prefix("fn ").filter(|_| is_test) {
                        *known.entry(name.split('(').next().unwrap().to_owned()).or_default() += 1;
                        is_test = false;
                    }
                }
            }
        }
    }
}
