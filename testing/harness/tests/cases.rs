//! The hard cases, one module each. `tests/cases/*.wat` say what they show.

use std::fs;
use std::path::Path;

use dunlin_harness::{Case, seed};

fn show(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(format!("{name}.wat"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (case, seed) = (Case::parse(name, &text).unwrap_or_else(|failure| panic!("{failure}")), seed());
    let reports = case.show(seed).unwrap_or_else(|failure| panic!("{failure}"));
    for (call, report) in case.calls.iter().zip(&reports) {
        println!("{name} {call:?}: {report:?}, seed {seed}");
    }
    assert!(reports.iter().any(|report| report.stops > 0), "{name} never stopped: it shows nothing");
}

macro_rules! cases {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                show(stringify!($name));
            }
        )*

        #[test]
        fn every_file_is_a_test() {
            let mut files: Vec<String> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases"))
                .unwrap()
                .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
                .collect();
            files.sort();
            let mut names = vec![$(stringify!($name)),*];
            names.sort();
            assert_eq!(files, names);
        }
    };
}

cases! {
    c01_indirect_recursion
    c02_operands_under_calls
    c03_loop_parameters
    c03_multi_value_loops
    c04_branches_out_of_nests
    c05_tail_calls
    c05_tail_calls_by_reference
    c06_many_values
    c07_interpreter_loop
    c08_dead_code
    c09_deep_stack
    c10_start_function
    c11_throw_after_restore
    c12_exception_references
    c12_uncaught
    c13_tables
    c14_dropped_segments
    c15_host_references
    c16_vectors
    c17_float_bits
    c18_memory_growth
    c19_bulk_memory
    c19_bulk_stops
    c20_several_memories
    c20_memory64
}
