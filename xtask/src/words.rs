//! `cargo xtask words`: words that no file of the repository may have.

use std::fs;
use std::path::Path;

use crate::{Result, root};

/// Paths of a developer's machine, and work put off. Written in two parts, so that this file may pass.
const FORBIDDEN: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("TO", "DO"), concat!("FIX", "ME")];

/// Directories that hold no source of ours.
const SKIPPED: &[&str] = &[".git", "artifacts", "corpus", "node_modules", "out", "target"];

/// Files are text if they are UTF-8; nothing longer is looked at.
const LONGEST: u64 = 4 << 20;

/// Checks every file and names every place.
pub(crate) fn run() -> Result {
    let mut faults = Vec::new();
    directory(&root(), &mut faults)?;
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

fn directory(path: &Path, faults: &mut Vec<String>) -> Result {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            if !SKIPPED.iter().any(|skipped| path.ends_with(skipped)) {
                directory(&path, faults)?;
            }
        } else if kind.is_file()
            && entry.metadata()?.len() <= LONGEST
            && let Ok(text) = String::from_utf8(fs::read(&path)?)
        {
            let name = path.strip_prefix(root())?.display().to_string();
            faults.extend(places(&text).map(|(line, word)| format!("{name}:{line} has the word {word}: reword it")));
        }
    }
    Ok(())
}

fn places(text: &str) -> impl Iterator<Item = (usize, &'static str)> {
    text.lines()
        .enumerate()
        .flat_map(|(at, line)| FORBIDDEN.iter().filter(move |word| has(line, word)).map(move |&word| (at + 1, word)))
}

/// Whether the word stands in the line, and is not a part of a longer one.
fn has(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let part = |neighbour: Option<char>| neighbour.is_some_and(|c| c.is_alphanumeric());
        word.starts_with('/') && !part(before) || !word.starts_with('/') && !part(before) && !part(after)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_with_their_line() {
        let text = format!("fine\nsee {}notes.md\n// {}: later\n", FORBIDDEN[0], FORBIDDEN[3]);
        assert_eq!(places(&text).collect::<Vec<_>>(), [(2, FORBIDDEN[0]), (3, FORBIDDEN[3])]);
    }

    #[test]
    fn parts_of_words_are_let_be() {
        let text = format!("a{}b frame{}x {}S", FORBIDDEN[3], FORBIDDEN[0], FORBIDDEN[3]);
        assert_eq!(places(&text).count(), 0);
    }
}
