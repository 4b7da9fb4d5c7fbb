//! Nodes as processes: every verb, moves with connections, and starts from disk.

#[path = "common/cluster.rs"]
mod cluster;
mod common;

use cluster::{Client, Cluster};
use common::Scratch;

#[test]
fn every_verb_does_what_it_says() {
    let cluster = Cluster::new("verbs", &["a", "b"]);
    assert!(cluster.ask("a", &["ps"]).stdout.starts_with("NAME"));
    let address = cluster.deploy("a", "kv");
    cluster
        .ask("a", &["deploy", common::built("kv").to_str().unwrap()])
        .refuses(69, &["there is a service kv already"]);
    let mut client = Client::connect(&address);
    assert_eq!(client.ask("INCR n"), ":1");

    // Every node knows every service, and passes on what is asked about it.
    let list = cluster.json("b", &["ps", "--json"]);
    assert_eq!((list[0]["name"].as_str(), list[0]["node"].as_str()), (Some("kv"), Some("a")));
    assert_eq!(cluster.ask("b", &["ps", "-o", "name"]).stdout, "kv\n");
    let info = cluster.json("b", &["describe", "kv", "--json"]);
    assert_eq!((info["ledger"]["holder"].as_str(), info["connections"].as_u64()), (Some("a"), Some(1)));
    assert!(info["memory_bytes"].as_u64() > Some(1 << 16) && info["pinned"].is_null(), "{info}");
    // What it takes while it runs is seen while it runs.
    assert_eq!(client.ask("DEBUG POPULATE 8000 key 1024"), "+OK");
    let grown = cluster.json("b", &["describe", "kv", "--json"])["memory_bytes"].as_u64().unwrap();
    assert!(grown > 8 << 20, "{grown} bytes");
    let description = cluster.ask("a", &["describe", "kv"]).stdout;
    let movable = description.lines().find(|line| line.starts_with("movable")).unwrap_or_default();
    assert!(movable.ends_with(" yes"), "{description}");

    let done = cluster.json("a", &["checkpoint", "kv", "--json"]);
    assert!(done["version"].as_u64() >= Some(1) && done["bytes"].as_u64() > Some(0), "{done}");
    assert_eq!(client.ask("INCR n"), ":2");
    // Back to the checkpoint: what came after it never happened.
    let restored = cluster.ask("a", &["restore", "--service", "kv"]);
    assert_eq!(restored.code, Some(0), "{}", restored.stderr);
    assert_eq!(Client::connect(&address).ask("INCR n"), ":2");
    // A stop keeps it.
    assert_eq!(cluster.ask("b", &["stop", "kv"]).code, Some(0));
    assert!(Client::try_connect(&address).is_err(), "what is stopped has no listener");
    assert_eq!(cluster.place("a", "kv"), Some(("a".to_owned(), "stopped".to_owned())));
    cluster.ask("a", &["checkpoint", "kv"]).refuses(69, &["does not run", "start it first"]);
    assert_eq!(cluster.ask("a", &["start", "kv"]).code, Some(0));
    assert_eq!(Client::connect(&address).ask("INCR n"), ":3");
    cluster.ask("a", &["start", "kv"]).refuses(69, &["runs already"]);

    cluster.ask("a", &["rm", "kv"]).refuses(64, &["--yes"]);
    cluster.ask("a", &["rm", "--yes", "kv"]).refuses(69, &["--force"]);
    assert_eq!(cluster.ask("b", &["rm", "--yes", "--force", "kv"]).code, Some(0));
    cluster.ask("a", &["describe", "kv"]).refuses(66, &["there is no service kv"]);
    assert!(!cluster.dir().join("nodes/a/services/kv").exists());
    cluster.ask("a", &["stop", "../kv"]).refuses(64, &["no name of a service"]);
}

#[test]
fn what_a_program_prints_and_how_it_ends_is_in_its_log() {
    let cluster = Cluster::new("logs", &["a"]);
    let scratch = Scratch::new("logs-guest");
    scratch.guest("exit");
    let path = scratch.path().join("exit.wasm");
    let ran = cluster.ask("a", &["deploy", path.to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let mut log = String::new();
    for _ in 0..100 {
        log = cluster.ask("a", &["logs", "exit"]).stdout;
        if log.contains("exited with") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(log.contains(" node exited with"), "{log}");
    assert_eq!(cluster.place("a", "exit"), Some(("a".to_owned(), "ended".to_owned())));
    let lines = cluster.ask("a", &["logs", "--json", "--tail", "1", "exit"]).stdout;
    let line: serde_json::Value = serde_json::from_str(lines.trim_end()).unwrap();
    assert_eq!(line["stream"], "node");
    // A module that is none is refused, and leaves nothing behind.
    std::fs::write(scratch.path().join("no.wasm"), b"\0asm\x01\0\0\0nonsense").unwrap();
    let ran = cluster.ask("a", &["deploy", scratch.path().join("no.wasm").to_str().unwrap()]);
    assert_ne!(ran.code, Some(0));
    assert_eq!(cluster.ask("a", &["ps", "-o", "name"]).stdout, "exit\n");
}

#[test]
fn a_service_moves_with_its_connections_in_every_mode() {
    let cluster = Cluster::new("moves", &["a", "b", "c"]);
    let address = cluster.deploy("a", "kv");
    let mut early = Client::connect(&address);
    let mut expected = 0;
    let mut count = |client: &mut Client| {
        expected += 1;
        assert_eq!(client.ask("INCR n"), format!(":{expected}"));
    };
    count(&mut early);
    let dry = cluster.migrate("kv", "b", &["--dry-run"]);
    assert_eq!((dry["state"].as_str(), dry["message"].as_str()), (Some("done"), Some("it would be taken")), "{dry}");
    assert_eq!(cluster.place("b", "kv").unwrap().0, "a");
    count(&mut early);
    // There and back and on to a third node: the same connection all the time, new ones through every node.
    let route = [("b", "precopy"), ("a", "postcopy"), ("b", "hybrid"), ("c", "stop"), ("b", "auto"), ("c", "precopy")];
    for (to, mode) in route {
        let job = cluster.migrate("kv", to, &["--mode", mode]);
        assert_eq!(
            (job["state"].as_str(), job["statistics"]["status"].as_str()),
            (Some("done"), Some("completed")),
            "{job}"
        );
        assert!(job["statistics"]["downtime"].as_f64() > Some(0.0) && job["connections"].as_u64() >= Some(1), "{job}");
        count(&mut early);
        for node in ["a", "b", "c"] {
            if cluster.dir().join("nodes").join(node).join("services/kv/service.json").exists() {
                let mut late = Client::connect(&cluster.address(node, "kv"));
                count(&mut late);
                count(&mut early);
            }
        }
        assert_eq!(cluster.place("a", "kv").unwrap(), (to.to_owned(), "running".to_owned()));
    }
    cluster.ask("a", &["migrate", "kv", "--to", "c"]).refuses(69, &["at node c already"]);
    cluster.ask("a", &["migrate", "kv", "--to", "d"]).refuses(66, &["knows no node d"]);
    let jobs = cluster.json("a", &["job", "ls", "--json"]);
    assert_eq!(jobs.as_array().unwrap().len(), 1 + route.len(), "{jobs}");
    let table = cluster.ask("b", &["job", "ls"]).stdout;
    assert!(table.lines().next().unwrap().starts_with("JOB") && table.contains("postcopy"), "{table}");
}

#[test]
fn a_volume_moves_with_its_service_and_survives_the_node() {
    let mut cluster = Cluster::new("volume", &["a", "b", "c"]);
    let database = common::built("database");
    // Interpreted, so that it is not over before it has been everywhere.
    let (app, rounds) = (database.to_str().unwrap(), "400");
    let deploy = ["deploy", app, "--tier", "wasmi", "--volume", "/data", "--", "/data", rounds];
    let ran = cluster.ask("a", &deploy);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for (to, mode) in [("b", "precopy"), ("c", "stop"), ("a", "auto"), ("b", "precopy"), ("c", "auto")] {
        let job = cluster.migrate("database", to, &["--mode", mode]);
        assert_eq!(job["state"].as_str(), Some("done"), "{job}");
    }
    // Back to a checkpoint on another machine than where it began: its state is sealed under the key of its epoch, which
    // comes from the broker at node a.
    cluster.json("a", &["checkpoint", "database", "--json"]);
    cluster.kill("c");
    cluster.start("c");
    let until = std::time::Instant::now() + cluster::PATIENCE;
    while cluster.place("a", "database").is_none_or(|(_, state)| state != "ended") {
        assert!(std::time::Instant::now() < until, "{}", cluster.ask("a", &["logs", "database"]).stdout);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let log = cluster.ask("c", &["logs", "database"]).stdout;
    assert!(log.contains(&format!("ok after {rounds} rounds, sum 200000")), "{log}");
}

#[test]
fn a_service_whose_machine_is_lost_comes_back_elsewhere_from_a_copy() {
    let mut cluster = Cluster::new("recover", &["l", "a", "b"]);
    let kv = common::built("kv");
    let ran = cluster.ask("a", &["deploy", kv.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let mut client = Client::connect(&cluster.address("a", "kv"));
    assert_eq!(client.ask("INCR n"), ":1");
    let copy = cluster.dir().join("kv.copy");
    let copy = copy.to_str().unwrap();
    assert_eq!(cluster.ask("a", &["checkpoint", "kv", "--save", copy]).code, Some(0));
    assert_eq!(client.ask("INCR n"), ":2");
    // It runs: whoever wants it elsewhere moves it.
    cluster.ask("b", &["recover", "--from", copy]).refuses(69, &["runs at node a", "--force"]);
    assert!(!cluster.dir().join("nodes/b/services/kv").exists(), "nothing is left of that");
    // An older copy is worth nothing once there is a newer checkpoint.
    let newer = cluster.dir().join("kv.newer");
    let newer = newer.to_str().unwrap();
    assert_eq!(cluster.ask("a", &["checkpoint", "kv", "--save", newer]).code, Some(0));
    cluster.kill("a");
    let stale = cluster.ask("b", &["recover", "--from", copy]);
    assert_ne!(stale.code, Some(0));
    assert!(stale.stderr.contains("is not among the stored ones"), "{}", stale.stderr);
    let ran = cluster.ask("b", &["recover", "--from", newer]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stdout, "kv runs on node b, from version 2\n");
    assert_eq!(Client::connect(&cluster.address("b", "kv")).ask("INCR n"), ":3");
    // The lost machine is back, with all that it had: it is not the holder, and relays.
    cluster.start("a");
    let until = std::time::Instant::now() + cluster::PATIENCE;
    while cluster.place("a", "kv") != Some(("b".to_owned(), "running".to_owned())) {
        assert!(std::time::Instant::now() < until, "{:?}", cluster.place("a", "kv"));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(Client::connect(&cluster.address("a", "kv")).ask("INCR n"), ":4");
    assert_eq!(cluster.migrate("kv", "a", &[])["state"], "done");
    assert_eq!(Client::connect(&cluster.address("b", "kv")).ask("INCR n"), ":5");
    // And with force, although it runs: what came after the checkpoint is gone.
    assert_eq!(cluster.ask("a", &["checkpoint", "kv", "--save", newer]).code, Some(0));
    assert_eq!(Client::connect(&cluster.address("a", "kv")).ask("INCR n"), ":6");
    let ran = cluster.ask("b", &["recover", "--force", "--from", newer]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(Client::connect(&cluster.address("b", "kv")).ask("INCR n"), ":6");
    std::fs::write(newer, b"nonsense").unwrap();
    cluster.ask("b", &["recover", "--from", newer]).refuses(64, &["not a copy of a checkpoint"]);
}

#[test]
fn an_owner_gives_a_policy_and_finds_out_what_runs_under_it() {
    let cluster = Cluster::new("policy", &["a", "b"]);
    cluster.deploy("a", "kv");
    let module = cluster.json("a", &["describe", "kv", "--json"])["module"].as_str().unwrap().to_owned();
    let ledger = cluster.json("a", &["node", "ls", "--json"])[0]["info"]["ledger"].as_str().unwrap().to_owned();
    let scratch = &cluster.scratch;
    let owner = scratch.dunlin(&["policy", "keygen", "shop.key"]).stdout.trim().to_owned();
    let policy = |name: &str, module: &str| {
        let text = format!(
            "format = 1\nservice = \"shop\"\nversion = 1\nissued = 2020-01-01T00:00:00Z\n\
             expires = 2100-01-01T00:00:00Z\nclass_floor = \"sim\"\nmodules = [\"sha256:{module}\"]\n\
             require_measured_policy = true\n[insecure]\nany_measurement = true\nany_provider = true\n[sim]\n\
             [migration]\ndestination = \"any_accepted\"\n\
             [ledger]\nid = \"{ledger}\"\nkeys = [\"{owner}\"]\nquorum = 1\n"
        );
        cluster.policy("shop.key", name, &text)
    };
    let (good, other) = (policy("good.policy", &module), policy("other.policy", &"00".repeat(32)));
    let kv = common::built("kv");
    let deploy = |policy: &str| {
        let app = kv.to_str().unwrap();
        let more = ["--listen", "127.0.0.1:0", "--policy", policy, "--owner", &owner];
        cluster.ask("a", &[&["deploy", app, "--name", "shop"], &more[..]].concat())
    };
    deploy(&other).refuses(64, &["it does not permit the module"]);
    assert_eq!(deploy(&good).code, Some(0));
    assert_eq!(cluster.migrate("shop", "b", &[])["state"], "done");
    let nonce = "5a".repeat(32);
    let file = |name: &str| scratch.path().join(name).display().to_string();
    let (evidence, binding) = (file("shop.evidence"), file("shop.binding"));
    let attest = ["attest", "service", "shop", "--challenge", &nonce, "-o", &evidence, "--binding", &binding];
    // A node carries the question to where the service is, also when it has only just gone there.
    for (asked, next) in [("a", Some("a")), ("b", Some("b")), ("b", Some("a")), ("a", Some("b")), ("a", None)] {
        let ran = cluster.ask(asked, &attest);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        if let Some(next) = next {
            assert_eq!(cluster.migrate("shop", next, &[])["state"], "done");
        }
    }
    let verify = |policy: &str, nonce: &str| {
        let bound = ["--binding", &binding, "--challenge", nonce, "--sim", "local"];
        scratch.dunlin(
            &[&["evidence", "verify", "--policy", policy, "--owner", &owner], &bound[..], &[&evidence]].concat(),
        )
    };
    let ran = verify(&good, &nonce);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    let ran = verify(&other, &nonce);
    assert_eq!(ran.code, Some(1), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("is not among the policy's modules"), "{}", ran.stdout);
    assert_ne!(verify(&good, &"5b".repeat(32)).code, Some(0), "another challenge");
}

#[test]
fn a_service_has_its_keys_from_the_broker_that_its_policy_names() {
    let scratch = Scratch::new("broker");
    let socket = scratch.path().join("broker.sock").display().to_string();
    let cluster = Cluster::in_scratch(scratch, &["a", "b"], vec!["--broker".to_owned(), socket.clone()]);
    let scratch = &cluster.scratch;
    let keygen = |name: &str| scratch.dunlin(&["policy", "keygen", name]).stdout.trim().to_owned();
    let (owner, broker) = (keygen("shop.key"), keygen("broker.key"));
    let ledger = cluster.json("a", &["node", "ls", "--json"])[0]["info"]["ledger"].as_str().unwrap().to_owned();
    let (at, dir) = (format!("unix:{}/nodes/a/peer.sock", cluster.dir().display()), cluster.dir());
    let (listen, dir) = (format!("unix:{socket}"), dir.to_str().unwrap());
    let arguments = ["--vault", "vault", "--key", "broker.key", "--listen", &listen, "--ledger", &at, "--dir", dir];
    let more = ["--ledger-key", &ledger, "--owner", &owner];
    let mut process = scratch.spawn(&[&["broker", "listen"], &arguments[..], &more].concat());
    let database = common::built("database");
    let app = database.to_str().unwrap();
    let deploy = |name: &str, more: &[&str]| {
        let all = ["deploy", app, "--name", name, "--tier", "wasmi", "--volume", "/data"];
        cluster.ask("b", &[&all, more, &["--", "/data", "3"]].concat())
    };
    // One without a policy has whoever keeps the ledger for its broker, as ever.
    assert_eq!(deploy("plain", &[]).code, Some(0));
    let module = cluster.json("a", &["describe", "plain", "--json"])["module"].as_str().unwrap().to_owned();
    let text = format!(
        "format = 1\nservice = \"shop\"\nversion = 1\nissued = 2020-01-01T00:00:00Z\n\
         expires = 2100-01-01T00:00:00Z\nclass_floor = \"sim\"\nmodules = [\"sha256:{module}\"]\n\
         require_measured_policy = true\n[insecure]\nany_measurement = true\nany_provider = true\n[sim]\n\
         [migration]\ndestination = \"any_accepted\"\n[broker]\nkeys = [\"{broker}\"]\n\
         [ledger]\nid = \"{ledger}\"\nkeys = [\"{owner}\"]\nquorum = 1\n"
    );
    let policy = cluster.policy("shop.key", "shop.policy", &text);
    let ran = deploy("shop", &["--policy", &policy, "--owner", &owner]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let until = std::time::Instant::now() + cluster::PATIENCE;
    while !cluster.ask("b", &["logs", "shop"]).stdout.contains("ok after 3 rounds") {
        assert!(std::time::Instant::now() < until, "{}", cluster.ask("b", &["logs", "shop"]).stdout);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    // Its root is in that broker's vault, and that of the other one is not.
    let id = |name: &str| cluster.json("a", &["describe", name, "--json"])["id"].as_str().unwrap().to_owned();
    let root = |vault: &str, name: &str| scratch.path().join(vault).join(id(name)).join("root").exists();
    assert!(root("vault", "shop") && !root("vault", "plain"));
    assert!(root("nodes/a/broker", "plain") && !root("nodes/a/broker", "shop"));
    scratch.write("tls.key", b"a key");
    let id = id("shop");
    let put = |service: &str| {
        scratch.dunlin(&["broker", "secret", "--vault", "vault", "--service", service, "tls", "tls.key"])
    };
    assert_eq!(put(&id).code, Some(0));
    assert!(scratch.path().join("vault").join(&id).join("secrets/tls").exists());
    put("shop").refuses(64, &["no id of a service", "dunlin describe"]);
    process.kill().unwrap();
    process.wait().unwrap();
}

#[test]
fn half_closed_connections_and_unread_bytes_move() {
    let cluster = Cluster::new("half", &["a", "b"]);
    let address = cluster.deploy("a", "kv");
    let mut client = Client::connect(&address);
    assert_eq!(client.ask("SET text 0123456789"), "+OK");
    // A pipeline of which much is unread, in both directions, when the service moves; then the client's end.
    for _ in 0..20_000 {
        client.send("INCR n").unwrap();
    }
    client.send("GET text").unwrap();
    client.end();
    cluster.migrate("kv", "b", &[]);
    cluster.migrate("kv", "a", &["--mode", "postcopy"]);
    for number in 1..=20_000 {
        assert_eq!(client.answer().unwrap(), format!(":{number}"));
    }
    assert_eq!(client.rest().unwrap(), "$10\r\n0123456789\r\n");
}

#[test]
fn nodes_speak_tls_over_tcp_and_so_do_operators() {
    let cluster = Cluster::over_tcp("tcp", &["a", "b"]);
    let address = cluster.deploy("a", "kv");
    let mut client = Client::connect(&address);
    assert_eq!(client.ask("DEBUG POPULATE 4000 key 512"), "+OK");
    for (number, (to, mode)) in [("b", "precopy"), ("a", "postcopy"), ("b", "auto")].into_iter().enumerate() {
        assert_eq!(cluster.migrate("kv", to, &["--mode", mode])["state"], "done");
        assert_eq!(client.ask("INCR n"), format!(":{}", number + 1));
    }
    assert_eq!(Client::connect(&cluster.address("a", "kv")).ask("INCR n"), ":4");
    // The same port serves the API, to whoever has the realm's keys.
    let listens = cluster.listens("a");
    let list = cluster.json(listens, &["ps", "--json"]);
    assert_eq!((list[0]["name"].as_str(), list[0]["node"].as_str()), (Some("kv"), Some("b")));
    let scratch = Scratch::new("tcp-stranger");
    scratch.dunlin(&["ps", "--dir", "other", "--node", listens]).refuses(69, &["no node answers"]);
}

#[test]
fn a_move_can_be_given_up_and_watched() {
    let cluster = Cluster::new("abort", &["a", "b"]);
    let address = cluster.deploy("a", "kv");
    let mut client = Client::connect(&address);
    assert_eq!(client.ask("DEBUG POPULATE 30000 key 512"), "+OK");
    // At this rate it would take a minute.
    let slow = ["migrate", "kv", "--to", "b", "--mode", "precopy", "--bandwidth", "256KiB", "--detach"];
    let ran = cluster.ask("a", &slow);
    let id = ran.stdout.trim().to_owned();
    assert_eq!((ran.code, id.len()), (Some(0), 32), "{}", ran.stderr);
    cluster.ask("a", &["migrate", "kv", "--to", "b"]).refuses(69, &["busy", "a move"]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(client.ask("INCR n"), ":1");
    assert_eq!(cluster.ask("b", &["job", "abort", &id[..8]]).code, Some(0));
    let watched = cluster.ask("b", &["job", "watch", &id, "-o", "json"]);
    assert_eq!(watched.code, Some(1), "{}", watched.stderr);
    assert_eq!(watched.json()["state"], "aborted");
    assert_eq!(cluster.place("a", "kv").unwrap(), ("a".to_owned(), "running".to_owned()));
    assert_eq!(client.ask("INCR n"), ":2");
    // And then it moves all the same.
    assert_eq!(cluster.migrate("kv", "b", &[])["state"], "done");
    assert_eq!(client.ask("INCR n"), ":3");
    cluster.ask("a", &["job", "abort", &id]).refuses(69, &["the job is over"]);
}

/// Says where it is, goes to `b`, says so, asks for `nowhere`, says the error as a letter (71 is G), goes to `c`, says so, and
/// ends with the number of places.
const AGENT: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "dunlin:agent/mobility" "migrate" (func $migrate (param i32 i32) (result i32)))
    (import "dunlin:agent/mobility" "where-am-i" (func $where (param i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "b")
    (data (i32.const 8) "nowhere")
    (data (i32.const 16) "c")
    (global $visited (mut i32) (i32.const 0))
    (func $say (param $length i32)
        (i32.store (i32.const 32) (i32.const 64))
        (i32.store (i32.const 36) (local.get $length))
        (drop (call $write (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 40))))
    (func $report
        (drop (call $where (i32.const 64) (i32.const 16) (i32.const 48)))
        (global.set $visited (i32.add (global.get $visited) (i32.const 1)))
        (call $say (i32.load (i32.const 48))))
    (func $go (param $at i32) (param $length i32)
        (i32.store8 (i32.const 64) (i32.add (i32.const 48) (call $migrate (local.get $at) (local.get $length))))
        (call $say (i32.const 1)))
    (func (export "_start")
        (call $report)
        (call $go (i32.const 0) (i32.const 1))
        (call $report)
        (call $go (i32.const 8) (i32.const 7))
        (call $go (i32.const 16) (i32.const 1))
        (call $report)
        (call $exit (global.get $visited))))"#;

#[test]
fn an_agent_moves_itself_over_three_nodes() {
    let cluster = Cluster::new("agent", &["a", "b", "c"]);
    let scratch = Scratch::new("agent-guest");
    scratch.module("agent", AGENT);
    let path = scratch.path().join("agent.wasm");
    let ran = cluster.ask("a", &["deploy", path.to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let until = std::time::Instant::now() + cluster::PATIENCE;
    let end = Some(("c".to_owned(), "ended".to_owned()));
    while cluster.place("a", "agent") != end {
        assert!(std::time::Instant::now() < until, "{:?}\n{}", cluster.place("a", "agent"), cluster.logs("agent"));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    // What it printed at each node is in that node's log.
    let log = cluster.logs("agent");
    for printed in ["\"a\"", "\"0bG\"", "\"0c\"", "exited with 3"] {
        assert!(log.contains(printed), "{printed} is missing in:\n{log}");
    }
}

/// Programs written with the headers: one that takes everything along, one that takes what it packed.
#[test]
fn agents_in_c_and_rust_travel_over_three_nodes() {
    let cluster = Cluster::new("agents", &["a", "b", "c"]);
    for (name, printed) in [
        ("courier", ["\"at a\"", "\"at b\"", "\"nowhere: error 23\"", "\"at c\"", "exited with 3"]),
        ("traveller", ["", "nowhere: the move was refused", "seen a b c", "", "exited with 3"]),
    ] {
        let module = common::built(name);
        let deploy = ["deploy", module.to_str().unwrap(), "--", "b", "nowhere", "c"];
        let ran = cluster.ask("a", &deploy);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let until = std::time::Instant::now() + cluster::PATIENCE;
        let end = Some(("c".to_owned(), "ended".to_owned()));
        while cluster.place("a", name) != end {
            assert!(std::time::Instant::now() < until, "{:?}\n{}", cluster.place("a", name), cluster.logs(name));
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let log = cluster.logs(name);
        for printed in printed {
            assert!(log.contains(printed), "{printed} is missing in:\n{log}");
        }
    }
}

#[test]
fn a_node_starts_its_services_again_from_its_disk() {
    let mut cluster = Cluster::new("restart", &["a", "b"]);
    let address = cluster.deploy("a", "kv");
    assert_eq!(Client::connect(&address).ask("INCR n"), ":1");
    // A proper end suspends services, so that nothing is lost.
    cluster.end("a");
    assert!(Client::try_connect(&address).is_err());
    cluster.start("a");
    assert_eq!(cluster.runs("a", "kv"), "a");
    assert_eq!(Client::connect(&address).ask("INCR n"), ":2", "at the same address");
    // A crash goes back to the last checkpoint. No other node is needed.
    cluster.end("b");
    cluster.json("a", &["checkpoint", "kv", "--json"]);
    assert_eq!(Client::connect(&address).ask("INCR n"), ":3");
    cluster.kill("a");
    cluster.start("a");
    assert_eq!(cluster.runs("a", "kv"), "a");
    assert_eq!(Client::connect(&address).ask("INCR n"), ":3");
    // A stopped one stays stopped, and one that is elsewhere is still found there.
    cluster.start("b");
    cluster.migrate("kv", "b", &[]);
    cluster.kill("a");
    cluster.start("a");
    assert_eq!(cluster.runs("a", "kv"), "b");
    assert_eq!(Client::connect(&address).ask("INCR n"), ":4", "node a relays again");
    assert_eq!(cluster.ask("a", &["stop", "kv"]).code, Some(0));
    cluster.end("b");
    cluster.start("b");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(cluster.place("b", "kv").unwrap().1, "stopped");
}

#[test]
fn up_runs_several_nodes_in_one_process() {
    let scratch = Scratch::new("up");
    let mut up = scratch.spawn(&["up", "--nodes", "2", "--dir", "realm"]);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(up.stderr.take().unwrap()));
    for name in ["a", "b"] {
        let line = lines.next().unwrap().unwrap();
        assert!(line.contains(&format!("node {name} is up")), "{line}");
    }
    let nodes = scratch.dunlin(&["node", "ls", "--dir", "realm", "--json"]).json();
    assert_eq!((nodes[0]["health"].as_str(), nodes[1]["health"].as_str()), (Some("this"), Some("up")), "{nodes}");
    let table = scratch.dunlin(&["node", "ls", "--dir", "realm", "--node", "b"]).stdout;
    assert!(table.starts_with("NAME") && table.lines().count() == 3, "{table}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&up), rustix::process::Signal::TERM).unwrap();
    assert_eq!(up.wait().unwrap().code(), Some(0));
    scratch.dunlin(&["ps", "--dir", "realm"]).refuses(69, &["dunlin up"]);
}
