//! `cargo xtask floors`: the shape of the workspace.
//!
//! Every crate in `crates/` stands on a floor (`[package.metadata] floor = N`) and may need only crates of lower floors.
//! `docs/floors.txt` lists who needs whom, so that a new dependency between crates shows in review.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::command::metadata;
use crate::{Result, root};

const GOLDEN: &str = "docs/floors.txt";
const HEADING: &str = "# Each crate with its floor, and the crates it needs. Checked by `cargo xtask floors`; \
                       DUNLIN_BLESS=1 rewrites it.\n";
const MOST_LINES: usize = 1000;

struct Member {
    name: String,
    manifest: PathBuf,
    /// None outside `crates/`: tests and tasks, which no crate may need.
    floor: Option<u64>,
    needs: Vec<String>,
}

/// Checks all of it and names every fault.
pub(crate) fn run() -> Result {
    let mut faults = Vec::new();
    let members = members(&mut faults)?;
    edges(&members, &mut faults);
    for member in members.values() {
        if !inherits_lints(&fs::read_to_string(&member.manifest)?) {
            faults.push(format!("{} has no `[lints] workspace = true`: add it to its manifest", member.name));
        }
    }
    lengths(&root().join("crates"), &mut faults)?;
    golden(&members, &mut faults)?;
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

fn members(faults: &mut Vec<String>) -> Result<BTreeMap<String, Member>> {
    let crates = root().join("crates");
    let mut members = BTreeMap::new();
    for package in metadata(&["--no-deps"])?["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default().to_owned();
        let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap_or_default());
        let floor = package["metadata"]["floor"].as_u64();
        if floor.is_none() && manifest.starts_with(&crates) {
            faults.push(format!("{name} has no floor: add `[package.metadata] floor = N` to its manifest"));
        }
        let needs = package["dependencies"].as_array().into_iter().flatten().filter_map(needed_here).collect();
        members.insert(name.clone(), Member { name, manifest, floor, needs });
    }
    Ok(members)
}

/// The name, if it is a crate of this repository and not needed by tests alone.
fn needed_here(dependency: &Value) -> Option<String> {
    let ours = dependency["path"].is_string() && dependency["kind"] != "dev";
    ours.then(|| dependency["name"].as_str().map(str::to_owned))?
}

fn edges(members: &BTreeMap<String, Member>, faults: &mut Vec<String>) {
    for member in members.values() {
        let Some(floor) = member.floor else { continue };
        for needed in &member.needs {
            match members.get(needed).and_then(|needed| needed.floor) {
                Some(below) if below < floor => {}
                Some(below) => faults.push(format!(
                    "{} (floor {floor}) needs {needed} (floor {below}): a crate may need only lower floors",
                    member.name
                )),
                None => {
                    faults.push(format!("{} needs {needed}, which has no floor: it serves tests only", member.name))
                }
            }
        }
    }
}

fn inherits_lints(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    lines.by_ref().take_while(|line| !line.starts_with('[')).any(|line| line.replace(' ', "") == "workspace=true")
}

fn lengths(directory: &Path, faults: &mut Vec<String>) -> Result {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            lengths(&path, faults)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let lines = fs::read_to_string(&path)?.lines().count();
            if lines > MOST_LINES {
                let path = path.strip_prefix(root())?.display();
                faults.push(format!("{path} has {lines} lines; the most is {MOST_LINES}: split it by subject"));
            }
        }
    }
    Ok(())
}

fn golden(members: &BTreeMap<String, Member>, faults: &mut Vec<String>) -> Result {
    let path = root().join(GOLDEN);
    let now = describe(members);
    if env::var_os("DUNLIN_BLESS").is_some() {
        return Ok(fs::write(path, now)?);
    }
    let written = fs::read_to_string(path).unwrap_or_default();
    let lacking = written.lines().filter(|line| !now.lines().any(|other| other == *line));
    let fresh = now.lines().filter(|line| !written.lines().any(|other| other == *line));
    let changes: Vec<String> =
        lacking.map(|line| format!("  - {line}")).chain(fresh.map(|line| format!("  + {line}"))).collect();
    if written != now {
        let changes = changes.join("\n");
        faults
            .push(format!("{GOLDEN} does not say what is; if it should be so, run it with DUNLIN_BLESS=1\n{changes}"));
    }
    Ok(())
}

fn describe(members: &BTreeMap<String, Member>) -> String {
    let mut rows: Vec<(u64, &str, String)> = members
        .values()
        .filter_map(|member| {
            let mut needs = member.needs.clone();
            needs.sort();
            needs.dedup();
            Some((member.floor?, member.name.as_str(), needs.join(", ")))
        })
        .collect();
    rows.sort();
    let rows = rows.iter().map(|(floor, name, needs)| format!("{floor} {name}: {needs}").trim_end().to_owned() + "\n");
    HEADING.to_owned() + &rows.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, floor: Option<u64>, needs: &[&str]) -> (String, Member) {
        let needs = needs.iter().map(|&need| need.to_owned()).collect();
        (name.to_owned(), Member { name: name.to_owned(), manifest: PathBuf::new(), floor, needs })
    }

    fn faults(members: impl IntoIterator<Item = (String, Member)>) -> Vec<String> {
        let mut faults = Vec::new();
        edges(&members.into_iter().collect(), &mut faults);
        faults
    }

    #[test]
    fn lower_floors_may_be_needed() {
        assert!(faults([member("a", Some(0), &[]), member("b", Some(2), &["a"])]).is_empty());
    }

    #[test]
    fn level_upward_and_test_only_crates_may_not() {
        let faults = faults([
            member("a", Some(1), &["b", "c", "harness"]),
            member("b", Some(1), &[]),
            member("c", Some(2), &[]),
            member("harness", None, &["c"]),
        ]);
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[0].contains("needs b (floor 1)"), "{faults:?}");
        assert!(faults[1].contains("needs c (floor 2)"), "{faults:?}");
        assert!(faults[2].contains("needs harness, which has no floor"), "{faults:?}");
    }

    #[test]
    fn lints_are_found_in_their_own_table_only() {
        assert!(inherits_lints("[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n"));
        assert!(!inherits_lints("[lints]\n\n[dependencies]\nworkspace = true\n"));
        assert!(!inherits_lints("[package]\nworkspace = true\n"));
    }

    #[test]
    fn dependencies_of_tests_do_not_count() {
        let dependency = |path: Value, kind: Value| serde_json::json!({ "name": "a", "path": path, "kind": kind });
        assert_eq!(needed_here(&dependency("crates/a".into(), Value::Null)), Some("a".to_owned()));
        assert_eq!(needed_here(&dependency("crates/a".into(), "build".into())), Some("a".to_owned()));
        assert_eq!(needed_here(&dependency("crates/a".into(), "dev".into())), None);
        assert_eq!(needed_here(&dependency(Value::Null, Value::Null)), None);
    }
}
