//! Services on machines whose TPM speaks for them: real quotes from software TPMs, under a policy that takes nothing less.

#[path = "common/cluster.rs"]
mod cluster;
mod common;
#[path = "../../attest-tpm/tests/common/mod.rs"]
mod tpm;

use cluster::{Client, Cluster};
use common::Scratch;
use dunlin_base::Digest;
use tpm::{Authority, SoftwareTpm};

/// A machine of the provider, whose node says what its TPM says.
struct Machine {
    tpm: SoftwareTpm,
    arguments: Vec<String>,
}

impl Machine {
    fn enrolled(name: &str, home: &tpm::Scratch, authority: &Authority, scratch: &Scratch) -> Self {
        let tpm = SoftwareTpm::made_by(home, name, authority, true);
        let (device, issuer) = (tpm.device().to_string(), authority.issuer_path());
        let (statement, events) = (format!("{name}.statement"), format!("{name}.events"));
        let enroll = ["tpm", "enroll", "--tpm", &device, "--ca", issuer.to_str().unwrap(), "--provider", "local"];
        let ran = scratch.dunlin(&[&enroll[..], &["--key", "enrolment.key", "-o", &statement]].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let file = |name: &str| scratch.path().join(name).display().to_string();
        let arguments = ["--attester", &format!("tpm:{device}"), "--statement", &file(&statement), "--event-log"];
        let arguments = arguments.into_iter().map(str::to_owned).chain([file(&events)]).collect();
        Self { tpm, arguments }
    }
}

/// The program that nodes start for each service.
fn runtime() -> Digest {
    let own = std::path::Path::new(env!("CARGO_BIN_EXE_dunlin"));
    let beside = own.with_file_name("dunlin-keep");
    let program = std::env::var_os("DUNLIN_KEEP").map(std::path::PathBuf::from);
    let program = program.unwrap_or(if beside.exists() { beside } else { own.to_owned() });
    Digest::of(&std::fs::read(program).unwrap())
}

#[test]
fn a_service_is_kept_to_measured_machines_by_its_owners_policy() {
    // Paths of sockets have at most 107 bytes.
    let home = tpm::Scratch::new("machines");
    let scratch = Scratch::new("machines");
    let keygen = |name: &str| scratch.dunlin(&["policy", "keygen", name]).stdout.trim().to_owned();
    let (owner, provider) = (keygen("shop.key"), keygen("enrolment.key"));
    let authority = Authority::new(&home, "authority");
    let a = Machine::enrolled("a", &home, &authority, &scratch);
    let mut b = Machine::enrolled("b", &home, &authority, &scratch);
    let own = [("a", a.arguments.clone()), ("b", b.arguments.clone())];
    let cluster = Cluster::with_own(scratch, &["a", "b", "c"], own.into());
    let scratch = &cluster.scratch;

    let kv = common::built("kv");
    let module = Digest::of(&std::fs::read(&kv).unwrap());
    let ledger = cluster.json("a", &["node", "ls", "--json"])[0]["info"]["ledger"].as_str().unwrap().to_owned();
    let policy = |name: &str, runtime: Digest| {
        let text = format!(
            "format = 1\nservice = \"shop\"\nversion = 1\nissued = 2020-01-01T00:00:00Z\n\
             expires = 2100-01-01T00:00:00Z\nclass_floor = \"measured_host\"\nmodules = [\"sha256:{module}\"]\n\
             require_measured_policy = true\n[tpm]\naccept = [{{ runtime = \"{runtime}\" }}]\n\
             [[provider]]\nid = \"local\"\nkey = \"{provider}\"\naccept_signed_platforms = true\n\
             [migration]\ndestination = \"any_accepted\"\n\
             [ledger]\nid = \"{ledger}\"\nkeys = [\"{owner}\"]\nquorum = 1\n"
        );
        cluster.policy("shop.key", name, &text)
    };
    let good = policy("good.policy", runtime());
    let deploy = |at: &str, policy: &str| {
        let more = ["--listen", "127.0.0.1:0", "--policy", policy, "--owner", &owner];
        cluster.ask(at, &[&["deploy", kv.to_str().unwrap(), "--name", "shop"], &more[..]].concat())
    };
    // A node whose platform is simulated may not even start it.
    let refused = deploy("c", &good);
    assert!(refused.stderr.contains("the policy demands measured_host"), "{}", refused.stderr);

    let ran = deploy("a", &good);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let mut client = Client::connect(&cluster.address("a", "shop"));
    assert_eq!(client.ask("INCR n"), ":1");

    // Its owner sees a genuine quote for a nonce of his, under his policy.
    let file = |name: &str| scratch.path().join(name).display().to_string();
    let (evidence, binding, endorsements) = (file("e"), file("b"), file("x"));
    let nonce = "5a".repeat(32);
    let more = ["-o", &evidence, "--binding", &binding, "--endorsements", &endorsements];
    let ran = cluster.ask("a", &[&["attest", "service", "shop", "--challenge", &nonce], &more[..]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let verify = |policy: &str, challenge: &str| {
        let bound = ["--binding", &binding, "--endorsements", &endorsements, "--challenge", challenge, "--json"];
        scratch.dunlin(
            &[&["evidence", "verify", "--policy", policy, "--owner", &owner], &bound[..], &[&evidence]].concat(),
        )
    };
    let ran = verify(&good, &nonce);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.json()["claims"]["class"].as_str(), Some("measured_host"));
    assert_ne!(verify(&good, &"5b".repeat(32)).code, Some(0), "another challenge");
    let ran = verify(&policy("other.policy", Digest::of(b"another keep")), &nonce);
    assert_eq!(ran.code, Some(1), "{}{}", ran.stdout, ran.stderr);

    // From one measured machine to the other, in both of which the broker believes when it gives the keys.
    assert_eq!(cluster.migrate("shop", "b", &[])["state"], "done");
    assert_eq!(client.ask("INCR n"), ":2");
    let ran = cluster.ask("a", &["checkpoint", "shop"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    // To a simulated one it does not go, and stays where it is.
    let stays = |to: &str, why: &str| {
        let ran = cluster.ask("a", &["migrate", "shop", "--to", to]);
        assert!(ran.code != Some(0) && ran.stdout.contains(why), "{}{}", ran.stdout, ran.stderr);
    };
    stays("c", "the policy demands measured_host, and this keep's platform is sim");
    assert_eq!(client.ask("INCR n"), ":3");
    // Nor does a machine whose TPM is gone pass for one.
    b.tpm.kill();
    stays("a", "no tpm platform here");
    assert_eq!(client.ask("INCR n"), ":4");
    b.tpm.start();
}
