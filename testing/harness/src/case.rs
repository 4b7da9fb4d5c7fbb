//! Cases: modules in text form that say in their comments what to call and what to expect.
//!
//! ```text
//! ;; What the case shows, in words.
//! ;; call NAME ARG...       a call of an export; ARG is i32:5, i64:-1, f32:0x7fa00001 (bits), f64:0x0 (bits), v128:0x1,
//! ;;                        func:null, func:3, extern:null, extern:7
//! ;; entries NAME...        entries that run one after the other; `start` is the start function
//! ;; refused TIER TEXT      this engine cannot take the module, and says so with this text
//! ;; samples N              how many safepoints to stop at, where every one would be too many
//! ```

use dunlin_base::Value;
use dunlin_engine::{Entry, Tier};

use crate::failure::{Failure, fail};
use crate::master::{Effort, Report, master_property};
use crate::subject::{Call, Subject};
use crate::world::Env;

/// A parsed case.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// The module.
    pub wasm: Vec<u8>,
    /// What to call.
    pub calls: Vec<Call>,
    /// Engines that refuse it, and a part of the text in which they do.
    pub refused: Vec<(Tier, String)>,
    /// How many safepoints to stop at, if not every one.
    pub samples: Option<u64>,
}

impl Case {
    /// Reads a case.
    ///
    /// # Errors
    /// If the module or a directive is not understood.
    pub fn parse(name: &str, text: &str) -> Result<Self, Failure> {
        let wasm = wat::parse_str(text).map_err(|error| Failure::new(format!("{name}: {error}")))?;
        let mut case = Self { name: name.to_owned(), wasm, calls: Vec::new(), refused: Vec::new(), samples: None };
        for line in text.lines().filter_map(|line| line.strip_prefix(";; ")) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("call") => {
                    let Some(export) = words.next() else { fail!("{name}: a call of what? {line}") };
                    let args = words.map(value).collect::<Result<_, _>>()?;
                    case.calls.push(Call::Invoke { export: export.to_owned(), args });
                }
                Some("entries") => {
                    let entry = |word| if word == "start" { Entry::Start } else { Entry::Export(String::from(word)) };
                    case.calls.push(Call::Entries(words.map(entry).collect()));
                }
                Some("refused") => {
                    let tier = words.next().and_then(|word| word.parse().ok());
                    let Some(tier) = tier else { fail!("{name}: no such engine: {line}") };
                    case.refused.push((tier, words.collect::<Vec<_>>().join(" ")));
                }
                Some("samples") => case.samples = words.next().and_then(|word| word.parse().ok()),
                _ => {}
            }
        }
        if case.calls.is_empty() { fail!("{name} calls nothing") } else { Ok(case) }
    }

    /// Shows the master property for every call, with a host that answers at once and with one that asks for each of
    /// its calls to be issued again. Gives what was done for each.
    ///
    /// # Errors
    /// The first difference, or an engine that refuses the module unexpectedly, or does not refuse it.
    pub fn show(&self, seed: u64) -> Result<Vec<Report>, Failure> {
        let subject = Subject::new(&self.name, &self.wasm, &Tier::ALL)?;
        for (tier, text) in &subject.refused {
            let expected = self.refused.iter().find(|(refusing, _)| refusing == tier);
            match expected {
                Some((_, expected)) if text.contains(expected) => {}
                _ => fail!("{}: refused: {text}", self.name),
            }
        }
        if subject.refused.len() != self.refused.len() {
            fail!("{}: {:?} refuse it, but {:?} should", self.name, subject.refused, self.refused);
        }
        let effort = self.samples.map_or(Effort::thorough(seed), |samples| Effort::sampled(samples, seed));
        let mut reports = Vec::new();
        for call in &self.calls {
            reports.push(master_property(&subject, call, &Env::default(), effort)?);
            if subject.map.imported_functions > 0 {
                crate::reissue::reissued(&subject, call, seed)?;
            }
        }
        Ok(reports)
    }
}

fn value(word: &str) -> Result<Value, Failure> {
    let Some((ty, text)) = word.split_once(':') else { fail!("not a value: {word}") };
    let parsed = match (ty, text) {
        ("func", "null") => Some(Value::FuncRef(None)),
        ("extern", "null") => Some(Value::ExternRef(None)),
        ("func", _) => text.parse().ok().map(|index| Value::FuncRef(Some(index))),
        ("extern", _) => text.parse().ok().map(|number| Value::ExternRef(Some(number))),
        _ => integer(text).and_then(|bits| {
            Some(match ty {
                "i32" => Value::I32(bits as i32),
                "i64" => Value::I64(bits as i64),
                "f32" => Value::F32(bits as u32),
                "f64" => Value::F64(bits as u64),
                "v128" => Value::V128(bits as u128),
                _ => return None,
            })
        }),
    };
    parsed.ok_or_else(|| Failure::new(format!("not a value: {word}")))
}

fn integer(text: &str) -> Option<i128> {
    match text.strip_prefix("0x") {
        Some(digits) => u128::from_str_radix(digits, 16).ok().map(|bits| bits as i128),
        None => text.parse().ok(),
    }
}
