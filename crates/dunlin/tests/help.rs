//! The help texts, pinned.

mod common;

use common::{Scratch, golden};

#[test]
fn help_texts() {
    let scratch = Scratch::new("help");
    let verbs: &[&[&str]] = &[
        &[],
        &["run"],
        &["restore"],
        &["inspect"],
        &["demo"],
        &["up"],
        &["node"],
        &["node", "ls"],
        &["deploy"],
        &["ps"],
        &["describe"],
        &["logs"],
        &["stop"],
        &["start"],
        &["rm"],
        &["migrate"],
        &["checkpoint"],
        &["recover"],
        &["job"],
        &["job", "ls"],
        &["job", "watch"],
        &["job", "abort"],
        &["bench"],
        &["bench", "overhead"],
        &["bench", "capture"],
        &["bench", "attest"],
        &["bench", "live"],
        &["evidence"],
        &["evidence", "show"],
        &["evidence", "verify"],
        &["policy"],
        &["policy", "lint"],
        &["policy", "diff"],
        &["policy", "sign"],
        &["policy", "keygen"],
        &["attest"],
        &["attest", "node"],
        &["attest", "service"],
        &["broker", "listen"],
        &["tpm"],
        &["tpm", "enroll"],
        &["threats"],
        &["wasi"],
        &["wasi", "matrix"],
    ];
    for verb in verbs {
        let ran = scratch.dunlin(&[*verb, &["--help"]].concat());
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
        golden(&format!("help-{}.txt", [&["dunlin"], *verb].concat().join("-")), &ran.stdout);
    }
}

#[test]
fn no_command_at_all_is_wrong_usage() {
    let ran = Scratch::new("help-none").dunlin(&[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(64), ""));
    assert!(ran.stderr.contains("Usage: dunlin <COMMAND>"), "{}", ran.stderr);
}
