//! One behaviour of the pass, one `.wat` file, and what the pass makes of it beside it. The diff of these files is what a
//! reviewer of the pass reads. `DUNLIN_BLESS=1 cargo test -p dunlin-instrument --test golden` writes them anew.

use std::path::{Path, PathBuf};

use dunlin_instrument::{Options, Poll, Variant, instrument};

#[test]
fn output_is_as_recorded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut sources: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wat"))
        .collect();
    sources.sort();
    assert!(sources.len() >= 11, "the golden cases are there");
    let bless = std::env::var_os("DUNLIN_BLESS").is_some();
    let mut differing = Vec::new();
    for source in sources {
        let wasm = wat::parse_file(&source).unwrap();
        for (variant, extension) in [(Variant::Fresh, "fresh"), (Variant::Resume, "resume")] {
            let out = instrument(&wasm, Options { poll: Poll::Flag, variant }).unwrap();
            let again = instrument(&wasm, Options { poll: Poll::Flag, variant }).unwrap();
            assert_eq!(out.wasm, again.wasm, "{}: the pass is deterministic", source.display());
            let mut text = wasmprinter::print_bytes(&out.wasm).unwrap();
            text.push_str("\n;; map\n");
            for (number, safepoint) in out.map.safepoints.iter().enumerate() {
                let live: Vec<String> =
                    safepoint.live.iter().map(|live| format!("{:?}: {}", live.slot, live.ty)).collect();
                text.push_str(&format!(
                    ";; safepoint {number}: {:?} in function {} at {:#x} [{}]\n",
                    safepoint.kind,
                    safepoint.function,
                    safepoint.offset,
                    live.join(", ")
                ));
            }
            let golden = source.with_extension(extension);
            if bless {
                std::fs::write(&golden, &text).unwrap();
            } else if std::fs::read_to_string(&golden).ok().as_deref() != Some(&text) {
                differing.push(golden);
            }
        }
    }
    assert!(
        differing.is_empty(),
        "differs from what is recorded: {differing:#?}; look, then bless with DUNLIN_BLESS=1"
    );
}
