//! The demonstration, the program that it carries, the soak, and what benchmarks say without guests.

mod common;

use common::{Ran, Scratch, built, guest_data};

#[test]
fn the_moved_program_prints_what_the_undisturbed_one_does() {
    let scratch = Scratch::new("demo");
    let ran = scratch.dunlin(&["demo", "--engines", "--json", "--keep", "kept"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{}", ran.stdout);
    let json = ran.json();
    assert_eq!(json["equal"], true);
    // The digest that guests.toml names.
    assert_eq!(json["output_sha256"][1], "e5b5345b59431e0caceb90f2302707b511a189aece7a16d2cce0a6f32565767d");
    let legs = json["legs"].as_array().unwrap();
    let tiers: Vec<_> = legs.iter().map(|leg| leg["report"]["tier"].as_str().unwrap()).collect();
    assert_eq!(tiers, ["cranelift", "pulley", "wasmi", "cranelift"]);
    let processes: std::collections::BTreeSet<_> = legs.iter().map(|leg| leg["process"].as_u64()).collect();
    assert_eq!(processes.len(), 4);
    for leg in &legs[..3] {
        assert_eq!(leg["report"]["outcome"], "stopped");
        assert!(leg["report"]["memory_bytes"].as_u64() > Some(1 << 20));
    }
    assert!(scratch.has("kept/hop3.snap"));
}

#[test]
fn the_service_that_moves_loses_and_doubles_nothing() {
    let scratch = Scratch::new("demo-live");
    let ran = scratch.dunlin(&["demo", "--json"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{}", ran.stdout);
    let json = ran.json();
    let totals = &json["totals"];
    assert!(totals["requests"].as_u64() > Some(5000), "{totals}");
    assert_eq!(totals["requests"], totals["replies"]);
    for none in ["lost", "doubled", "nonsense", "broken_connections"] {
        assert_eq!(totals[none], 0, "{none}: {totals}");
    }
    assert_eq!(json["counters_are_right"], true);
    let moves = json["moves"].as_array().unwrap();
    let modes: Vec<_> = moves.iter().map(|hop| hop["job"]["mode"].as_str().unwrap()).collect();
    assert_eq!(modes, ["precopy", "postcopy", "hybrid", "stop", "auto", "auto"]);
    for hop in moves {
        assert_eq!(
            (hop["job"]["state"].as_str(), hop["job"]["connections"].as_u64()),
            (Some("done"), Some(8)),
            "{hop}"
        );
    }
}

#[test]
fn a_soak_that_is_asked_to_end_says_what_it_found() {
    let scratch = Scratch::new("soak");
    let mut soak = scratch.spawn(&["soak", "--minutes", "60", "--rate", "200", "--values", "10", "--json"]);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(soak.stderr.take().unwrap()));
    assert!(lines.next().unwrap().unwrap().contains("under load"));
    std::thread::sleep(std::time::Duration::from_secs(2));
    rustix::process::kill_process(rustix::process::Pid::from_child(&soak), rustix::process::Signal::TERM).unwrap();
    assert!(lines.next().unwrap().unwrap().contains("ended by a signal"));
    let ran = Ran::of(soak.wait_with_output().unwrap());
    let json = ran.json();
    assert_eq!(ran.code, Some(0), "{json}");
    assert!(json["minutes"].as_f64() < Some(10.0), "{json}");
    assert_eq!(json["totals"]["requests"], json["totals"]["replies"], "{json}");
    assert_eq!((&json["counters_are_right"], &json["failed"]), (&true.into(), &serde_json::json!([])));
}

#[test]
fn the_carried_programs_are_the_guests() {
    let scratch = Scratch::new("demo-asset");
    let asset = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/invert.wasm");
    assert_eq!(include_bytes!("../assets/scene.png")[..], guest_data("scene.png"));
    let picture = guest_data("small.png");
    let carried = scratch.dunlin_with(&["run", asset], &picture);
    let guest = scratch.dunlin_with(&["run", built("invert").to_str().unwrap()], &picture);
    assert_eq!((carried.code, guest.code), (Some(0), Some(0)));
    assert!(carried.bytes == guest.bytes && !guest.bytes.is_empty());
    let asset = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/kv.wasm");
    let session = guest_data("session.resp");
    let carried = scratch.dunlin_with(&["run", asset, "--", "--stdin"], &session);
    let guest = scratch.dunlin_with(&["run", built("kv").to_str().unwrap(), "--", "--stdin"], &session);
    assert_eq!((carried.code, guest.code), (Some(0), Some(0)));
    assert!(carried.bytes == guest.bytes && !guest.bytes.is_empty());
}

#[test]
fn benchmarks_name_what_is_missing() {
    let scratch = Scratch::new("bench-none");
    scratch.dunlin(&["bench", "overhead", "--quick"]).refuses(66, &["testing/guests", "guests.toml"]);
    let guests = "[[guest]]\nname = \"a\"\nmodule = \"a\"\n[guest.bench]\nargs = []\nstdout = \"x\"\n";
    scratch.write("guests.toml", guests.as_bytes());
    for verb in ["overhead", "capture"] {
        let ran = scratch.dunlin(&["bench", verb, "--guests", "."]);
        assert_eq!(ran.code, Some(69), "{}", ran.stderr);
        assert!(ran.stderr.contains("build the guests by `cargo xtask guests`"), "{}", ran.stderr);
    }
}

#[test]
fn a_small_benchmark_measures_everything() {
    let scratch = Scratch::new("bench-small");
    std::fs::create_dir(scratch.path().join("out")).unwrap();
    // Counts to `size` and returns it: a kernel of the same shape as the real ones.
    let kernel = wat::parse_str(
        r#"(module
            (memory (export "memory") 1)
            (func (export "run_count") (param $size i32) (param $repeat i32) (result i64)
                (local $i i64)
                (loop $next
                    (local.set $i (i64.add (local.get $i) (i64.const 1)))
                    (br_if $next (i64.lt_u (local.get $i) (i64.extend_i32_u (local.get $size)))))
                (local.get $i))
            (func (export "_start")))"#,
    )
    .unwrap();
    scratch.write("out/count.wasm", &kernel);
    let guests = "[[guest]]\nname = \"count\"\nmodule = \"count\"\n[guest.bench]\nargs = []\nexport = \"run_count\"\n\
                  size = 20000000\nstdout = \"count 1312d00\\n\"\n";
    scratch.write("guests.toml", guests.as_bytes());
    let json = scratch.dunlin(&["bench", "overhead", "--quick", "--seed", "1", "--json", "--guests", "."]).json();
    let kernel = &json["kernels"][0];
    assert_eq!((kernel["name"].as_str(), json["seed"].as_u64()), (Some("count"), Some(1)));
    for key in ["plain_min_ms", "movable_min_ratio", "movable_median_ratio", "epoch_min_ratio", "epoch_median_ratio"] {
        assert!(kernel[key].as_f64().unwrap() > 0.0, "{key}: {kernel}");
    }
    let stops = json["to_safepoint"]["samples"].as_u64().unwrap() + json["missed_requests"].as_u64().unwrap();
    assert_eq!(stops, 4);
    for key in ["compile_ratio", "code_ratio", "start_ratio"] {
        assert!(json["modules"][0][key].as_f64().unwrap() > 0.0, "{key}");
    }
    // A wrong checksum is found.
    scratch.write("guests.toml", guests.replace("1312d00", "1312d01").as_bytes());
    scratch.dunlin(&["bench", "overhead", "--quick", "--guests", "."]).refuses(70, &["run_count returned"]);
}
