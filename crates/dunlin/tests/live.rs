//! Moves between two processes, with a client, as `dunlin bench live` measures them.

mod common;

use common::{Scratch, built};
use serde_json::Value;

/// In every mode, over an encrypted stream: nothing is lost or answered twice, memory is what the program wrote, the epoch
/// rises by one with each move, and the pause that the source reports is one that the client can have seen.
#[test]
fn a_service_moves_and_its_client_loses_nothing() {
    let scratch = Scratch::new("bench-live");
    let module = built("dirtier");
    let guests = std::path::Path::new(&module).ancestors().nth(2).unwrap().to_str().unwrap().to_owned();
    let arguments = [
        "bench", "live", "--json", "--guests", &guests, "--memory", "4", "--rate", "2000", "--moves", "2", "--link",
        "loopback", "--limit", "300ms",
    ];
    let ran = scratch.dunlin(&arguments);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["encrypted"], true);
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 5);
    for row in rows {
        assert_eq!(row["moved"], 2, "{row}");
        assert_eq!((&row["epochs"], &row["wrong"]), (&Value::from(2), &Value::from(0)), "{row}");
        assert_eq!(row["asked"], row["answered"], "{row}");
        assert!(row["last_words"].as_str().unwrap().ends_with(" 0 damaged"), "{row}");
        let pause = row["downtime"]["p50_ms"].as_f64().unwrap();
        let client = row["client"]["max_ms"].as_f64().unwrap();
        let safepoint = row["parts"]["time_to_safepoint"].as_f64().unwrap();
        assert!(pause > 0.0 && safepoint >= 0.0 && client > 0.0, "{row}");
    }
    let lost: u64 = report["limits"].as_array().unwrap().iter().filter_map(|limit| limit["lost"].as_u64()).sum();
    assert_eq!(lost, 0, "{report}");
    let raw = report["raw"][0]["mb_per_second"].as_f64().unwrap();
    assert!(raw > 1.0, "{report}");
}
