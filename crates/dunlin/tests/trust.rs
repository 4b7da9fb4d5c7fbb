//! Evidence, policies, TPMs and threats on the command line.

mod common;
#[path = "../../attest-tpm/tests/common/mod.rs"]
mod tpm;

use std::path::Path;

use common::{Ran, Scratch};

const NONCE: &str = "1111111111111111111111111111111111111111111111111111111111111111";

fn asset(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/evidence").join(name).display().to_string()
}

/// A policy for the simulated machine, with the digest of this very program.
fn policy(floor: &str, block: &str, key: &str) -> String {
    format!(
        "format = 1\nservice = \"node\"\nversion = 1\nissued = 2020-01-01T00:00:00Z\nexpires = 2100-01-01T00:00:00Z\n\
         class_floor = \"{floor}\"\nmodules = [\"sha256:{}\"]\nrequire_measured_policy = false\n{block}\n\
         [[provider]]\nid = \"local\"\nkey = \"{key}\"\naccept_signed_platforms = true\nplatforms = [\"sim:local\"]\n\
         [ledger]\nid = \"none\"\nkeys = [\"{key}\"]\nquorum = 1\n",
        "00".repeat(32)
    )
}

fn keygen(scratch: &Scratch, name: &str) -> String {
    let made = scratch.dunlin(&["policy", "keygen", name]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    made.stdout.trim().to_owned()
}

fn ok(ran: Ran) -> Ran {
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    ran
}

#[test]
fn a_policy_is_written_signed_read_and_compared() {
    let scratch = Scratch::new("trust-policy");
    let key = keygen(&scratch, "owner.key");
    assert_eq!(key.len(), 66);
    scratch.dunlin(&["policy", "keygen", "owner.key"]).refuses(73, &["is there already"]);
    let block = format!("[sim]\naccept = [{{ runtime = \"{}\" }}]", "ab".repeat(32));
    scratch.write("old.toml", policy("sim", &block, &key).as_bytes());
    let lint = ok(scratch.dunlin(&["policy", "lint", "old.toml"]));
    assert!(lint.stdout.contains("warning: class_floor"), "{}", lint.stdout);
    assert!(ok(scratch.dunlin(&["policy", "explain", "old.toml"])).stdout.contains("SIMULATED"));
    ok(scratch.dunlin(&["policy", "sign", "--key", "owner.key", "-o", "old.policy", "old.toml"]));
    assert!(ok(scratch.dunlin(&["policy", "explain", "--owner", &key, "old.policy"])).stdout.contains("SIMULATED"));
    let other = keygen(&scratch, "other.key");
    scratch
        .dunlin(&["policy", "explain", "--owner", &other, "old.policy"])
        .refuses(65, &["is not signed by its owner"]);
    // A floor that nothing can reach is not signed.
    scratch.write("bad.toml", policy("hw_tee", &block, &key).as_bytes());
    assert_eq!(scratch.dunlin(&["policy", "lint", "bad.toml"]).code, Some(1));
    scratch
        .dunlin(&["policy", "sign", "--key", "owner.key", "-o", "bad.policy", "bad.toml"])
        .refuses(65, &["contradicts itself"]);
    assert!(!scratch.has("bad.policy"));
    let diff = scratch.dunlin(&["policy", "diff", "--json", "bad.toml", "old.toml"]);
    assert_eq!(diff.code, Some(1), "{}", diff.stdout);
    assert_eq!(
        (diff.json()[0]["effect"].as_str(), diff.json()[0]["place"].as_str()),
        (Some("weaker"), Some("class_floor"))
    );
    ok(scratch.dunlin(&["policy", "diff", "old.toml", "old.toml"])).expect(0, "the policies say the same\n");
    scratch.dunlin(&["policy", "lint", "none.toml"]).refuses(66, &["none.toml"]);
}

#[test]
fn genuine_evidence_is_shown_at_its_time_and_refused_at_others() {
    let scratch = Scratch::new("trust-show");
    let show = |kind: &str, quote: &str, collateral: &str, at: &str| {
        scratch.dunlin(&[
            "evidence",
            "show",
            "--as",
            kind,
            "--collateral",
            &asset(collateral),
            "--at",
            at,
            "--json",
            &asset(quote),
        ])
    };
    let samples = [
        ("sgx", "sgx_quote", "sgx_quote_collateral.json"),
        ("tdx", "tdx_quote", "tdx_quote_collateral.json"),
        ("snp", "snp_report", "vcek_milan.der"),
    ];
    for (kind, quote, collateral) in samples {
        let shown = ok(show(kind, quote, collateral, "2025-07-01T00:00:00Z")).json();
        assert_eq!((shown["genuine"].as_bool(), shown["claims"]["class"].as_str()), (Some(true), Some("hw_tee")));
        let late = show(kind, quote, collateral, "2125-07-01T00:00:00Z");
        assert_eq!((late.code, late.json()["genuine"].as_bool()), (Some(1), Some(false)));
        assert!(!late.json()["refused"].as_array().unwrap().is_empty());
    }
    // Relabelled.
    let wrong = show("snp", "sgx_quote", "vcek_milan.der", "2025-07-01T00:00:00Z");
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.stdout.contains("labelled snp"), "{}", wrong.stdout);
    let plain = scratch.dunlin(&["evidence", "show", "--as", "sgx", &asset("sgx_quote")]);
    assert_eq!(plain.code, Some(1));
    assert!(plain.stdout.starts_with("REFUSED: sgx evidence"), "{}", plain.stdout);
    scratch.dunlin(&["evidence", "show", &asset("sgx_quote")]).refuses(65, &["give --as"]);
    scratch.dunlin(&["evidence", "show", "--at", "yesterday", &asset("sgx_quote")]).refuses(64, &["date-time"]);
}

#[test]
fn p1_simulated_evidence_of_this_machine_is_labelled_and_no_floor_takes_it() {
    let scratch = Scratch::new("trust-sim");
    let key = keygen(&scratch, "owner.key");
    let made = ok(scratch.dunlin(&[
        "attest",
        "node",
        "--challenge",
        NONCE,
        "-o",
        "a.evidence",
        "--binding",
        "a.binding",
        "--json",
    ]));
    assert!(made.stderr.contains("SIMULATED"), "{}", made.stderr);
    assert_eq!((made.json()["class"].as_str(), made.json()["platform"].as_str()), (Some("sim"), Some("sim:local")));
    // Without naming the simulation nothing is believed.
    let refused = scratch.dunlin(&["evidence", "show", "a.evidence"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stdout.contains("--sim NAME"), "{}", refused.stdout);
    scratch.write("cut.evidence", &scratch.read("a.evidence")[..9]);
    scratch.dunlin(&["evidence", "show", "cut.evidence"]).refuses(65, &["not evidence", "it ends too early"]);
    let shown = ok(scratch.dunlin(&["evidence", "show", "--sim", "local", "--json", "a.evidence"])).json();
    assert!(shown["claims"]["label"].as_str().unwrap().contains("SIMULATED"));
    let plain = ok(scratch.dunlin(&["evidence", "show", "--sim", "local", "a.evidence"]));
    assert!(plain.stdout.starts_with("*** SIMULATED"), "{}", plain.stdout);
    let runtime = shown["claims"]["registers"]["runtime"].as_str().unwrap().to_owned();

    let block = format!("[sim]\naccept = [{{ runtime = \"{runtime}\" }}]");
    let tpm = format!("[tpm]\naccept = [{{ runtime = \"{runtime}\" }}]");
    let verify = |floor: &str, block: &str, more: &[&str]| {
        scratch.write("p.toml", policy(floor, block, &key).as_bytes());
        ok(scratch.dunlin(&["policy", "sign", "--key", "owner.key", "-o", "p.policy", "p.toml"]));
        let common =
            ["evidence", "verify", "--policy", "p.policy", "--owner", &key, "--sim", "local", "--json", "a.evidence"];
        scratch.dunlin(&[&common, more].concat())
    };
    let preview = verify("sim", &block, &[]);
    assert_eq!((preview.code, preview.json()["appraisal"]["accepted"].as_bool()), (Some(0), Some(false)));
    assert_eq!(preview.json()["appraisal"]["otherwise_good"].as_bool(), Some(true), "{}", preview.stdout);
    let late = verify("sim", &block, &["--at", "2100-01-01T00:00:01Z"]);
    assert!(late.code == Some(1) && late.stdout.contains("now is 2100-01-01T00:00:01Z"), "{}", late.stdout);
    scratch
        .dunlin(&["evidence", "verify", "--policy", "p.toml", "--owner", &key, "a.evidence"])
        .refuses(65, &["p.toml is not signed", "dunlin policy sign"]);
    let higher = verify("measured_host", &tpm, &[]);
    assert_eq!(higher.code, Some(1));
    let failed = higher.json()["appraisal"]["failed"].as_array().unwrap().clone();
    assert!(failed.iter().any(|failed| failed["rule"] == "ClassFloor"), "{failed:?}");
    assert!(failed.len() >= 2, "all reasons, not the first one: {failed:?}");
    // Bound to the challenge: other reasons are about the session, which here is none of a service.
    let bound = verify("sim", &block, &["--binding", "a.binding", "--challenge", NONCE]);
    assert_eq!(bound.json()["genuine"].as_bool(), Some(true), "{}", bound.stdout);
    let other = verify("sim", &block, &["--binding", "a.binding", "--challenge", &"22".repeat(32)]);
    other.refuses(65, &["answers another challenge"]);
    ok(scratch.dunlin(&["attest", "node", "--challenge", NONCE, "-o", "b.evidence", "--binding", "b.binding"]));
    let swapped = verify("sim", &block, &["--binding", "b.binding"]);
    assert_eq!((swapped.code, swapped.json()["genuine"].as_bool()), (Some(1), Some(false)));
}

#[test]
fn p8_a_platform_that_is_missing_is_not_replaced() {
    let scratch = Scratch::new("trust-missing");
    for attester in ["snp", "tdx", "sgx", "tpm:swtpm:path=/nonexistent/tpm.sock"] {
        let ran = scratch.dunlin(&["attest", "node", "--attester", attester, "-o", "none.evidence"]);
        ran.refuses(69, &["there is no"]);
        assert!(!scratch.has("none.evidence"));
    }
    scratch
        .dunlin(&["attest", "node", "--attester", "auto", "-o", "none.evidence"])
        .refuses(64, &["names no attester"]);
    let list = ok(scratch.dunlin(&["attest", "list", "--json"])).json();
    assert_eq!(list.as_array().unwrap().len(), 5);
    assert_eq!((list[4]["attester"].as_str(), list[4]["here"].as_bool()), (Some("sim:local"), Some(true)));
}

#[test]
fn t01_a_machine_is_enrolled_and_attested_on_the_command_line() {
    let scratch = Scratch::new("trust-tpm");
    let home = tpm::Scratch::new("cli");
    let authority = tpm::Authority::new(&home, "authority");
    let mut machine = tpm::SoftwareTpm::made_by(&home, "machine", &authority, false);
    let (device, issuer) = (machine.device().to_string(), authority.issuer_path());
    let owner = keygen(&scratch, "owner.key");
    let provider = keygen(&scratch, "provider.key");
    let enrol = [
        "tpm",
        "enroll",
        "--tpm",
        &device,
        "--ca",
        issuer.to_str().unwrap(),
        "--provider",
        "local",
        "--key",
        "provider.key",
    ];
    let enrolled = ok(scratch.dunlin(&[&enrol[..], &["-o", "machine.statement", "--json"]].concat())).json();
    assert!(enrolled["platform"].as_str().unwrap().starts_with("tpm:"));
    let attester = format!("tpm:{device}");
    let attest = [
        "attest",
        "node",
        "--attester",
        &attester,
        "--challenge",
        NONCE,
        "--statement",
        "machine.statement",
        "--event-log",
        "events",
    ];
    ok(scratch.dunlin(&[&attest[..], &["-o", "m.evidence", "--endorsements", "m.endorsements"]].concat()));
    let runtime = "00".repeat(32);
    let block = format!("[tpm]\naccept = [{{ runtime = \"{runtime}\" }}]");
    let text = policy("measured_host", &block, &provider);
    scratch.write("p.toml", text.as_bytes());
    ok(scratch.dunlin(&["policy", "sign", "--key", "owner.key", "-o", "p.policy", "p.toml"]));
    let verified = scratch.dunlin(&[
        "evidence",
        "verify",
        "--policy",
        "p.policy",
        "--owner",
        &owner,
        "--endorsements",
        "m.endorsements",
        "--json",
        "m.evidence",
    ]);
    let json = verified.json();
    assert_eq!(
        (json["genuine"].as_bool(), json["claims"]["class"].as_str()),
        (Some(true), Some("measured_host")),
        "{json}"
    );
    assert_eq!(json["claims"]["provider"].as_str(), Some("local"));
    // It is this program that was measured, and the policy names another one.
    let failed: Vec<_> =
        json["appraisal"]["failed"].as_array().unwrap().iter().map(|failed| failed["rule"].to_string()).collect();
    assert_eq!((verified.code, failed), (Some(1), vec!["\"NotBound\"".to_owned(), "\"Measurement\"".to_owned()]));
    machine.kill();
    let gone = scratch.dunlin(&attest.iter().copied().chain(["-o", "n.evidence"]).collect::<Vec<_>>());
    gone.refuses(69, &["there is no tpm platform here"]);
}

#[test]
fn every_threat_is_listed_with_its_tests() {
    let scratch = Scratch::new("trust-threats");
    let threats = ok(scratch.dunlin(&["threats", "--json"])).json();
    let threats = threats.as_array().unwrap();
    for id in ["E1", "E28", "T16", "B15", "P9", "F1", "N1"] {
        assert!(threats.iter().any(|threat| threat["id"] == id), "{id}");
    }
    assert!(ok(scratch.dunlin(&["threats"])).stdout.contains("not protected"));
}
