//! Sequences of WASI calls from a hostile program, and hostile frozen state: no panic, no value that does not exist, and
//! nothing outside of the mounted directory changes.
#![no_main]

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use dunlin_base::{Value, ValueType};
use dunlin_engine::{Flow, Host as _};
use dunlin_host::{Config, Connections, Input, Limits, Mount, PrivateVolume, World, matrix};
use dunlin_store::MemoryStore;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

/// Bytes of the program's memory.
const MEMORY: usize = 64 << 10;

/// A mounted directory beside a file that nobody may touch.
fn directory() -> &'static PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let root = std::env::temp_dir().join(format!("dunlin-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(root.join("mounted")).unwrap();
        std::fs::write(root.join("secret"), "secret").unwrap();
        root
    })
}

fn config() -> Config {
    let limits = Limits {
        descriptors: 24,
        file_bytes: Some(1 << 20),
        output_bytes: Some(1 << 20),
        carried_bytes: 1 << 20,
        directory_entries: 200,
        ..Limits::default()
    };
    Config::new()
        .args(["program", "argument"])
        .env("NAME", "value")
        .stdin(Input::Bytes(b"some input".to_vec()))
        .listen("127.0.0.1:0")
        .limits(limits)
        .connections(Connections::Close)
        .mount(Mount { host: directory().join("mounted"), guest: "/data".to_owned(), writable: true })
        .volume(PrivateVolume::new(Arc::new(MemoryStore::new())).guest("/volume").limit(1 << 20))
}

fuzz_target!(|bytes: &[u8]| {
    // Whatever is left of the sequence when the bytes run out is not tried.
    let _ = sequence(&mut Unstructured::new(bytes));
});

fn sequence(input: &mut Unstructured<'_>) -> Result<()> {
    let mounted = directory().join("mounted");
    let mut world = World::new(config()).unwrap();
    // Nothing may block: what would is issued again.
    let interrupt = world.interrupter();
    interrupt();
    let mut memory = vec![0_u8; MEMORY];
    for (at, path) in
        ["a", "b", "d", "a/../../secret", "../secret", "d/c", "/", "l", "l/secret", ".."].iter().enumerate()
    {
        memory[at * 32..at * 32 + path.len()].copy_from_slice(path.as_bytes());
    }
    let functions: Vec<_> = matrix().collect();
    while !input.is_empty() && world.listening().len() <= 1 {
        match input.int_in_range(0..=9)? {
            // The program writes its own memory.
            0 | 1 => {
                let (at, len) = (input.int_in_range(0..=MEMORY - 64)?, input.int_in_range(0..=64)?);
                input.fill_buffer(&mut memory[at..at + len])?;
            }
            2 if input.ratio(1, 4)? => {
                // A move, with the state damaged on the way or not.
                let Ok(mut sections) = world.freeze() else { continue };
                if input.ratio(3, 4)? {
                    let nth = input.choose_index(sections.len())?;
                    let section = &mut sections[nth];
                    for _ in 0..input.int_in_range(1..=4)? {
                        match input.int_in_range(0..=3)? {
                            0 => section.bytes.truncate(input.int_in_range(0..=section.bytes.len())?),
                            1 => section.bytes.extend_from_slice(&input.arbitrary::<[u8; 9]>()?),
                            2 => section.version = input.arbitrary()?,
                            _ if section.bytes.is_empty() => {}
                            _ => {
                                let at = input.choose_index(section.bytes.len())?;
                                section.bytes[at] = input.arbitrary()?;
                            }
                        }
                    }
                }
                match World::thaw(&sections, config()) {
                    Ok(thawed) => world = thawed,
                    Err(error) => assert!(!error.to_string().is_empty()),
                }
                let interrupt = world.interrupter();
                interrupt();
            }
            _ => {
                let entry = functions[input.choose_index(functions.len())?];
                let mut args = Vec::new();
                for ty in entry.params {
                    let number: u64 = match input.int_in_range(0..=5)? {
                        0 => input.int_in_range(0..=30)?,
                        1 => 32 * input.int_in_range(0..=9)?,
                        2 => MEMORY as u64 - input.int_in_range(0..=64)?,
                        3 => u64::MAX - input.int_in_range(0..=8)?,
                        4 => input.int_in_range(0..=MEMORY as u64)?,
                        _ => input.arbitrary()?,
                    };
                    args.push(match ty {
                        ValueType::I32 => Value::I32(number as i32),
                        _ => Value::I64(number as i64),
                    });
                }
                let types: &[ValueType] = if entry.returns { &[ValueType::I32] } else { &[] };
                let number = world.resolve(dunlin_host::MODULE, entry.name, entry.params, types).unwrap();
                let mut results = vec![Value::I32(0); types.len()];
                match world.call(number, &mut memory, &args, &mut results) {
                    Flow::Return => assert!(
                        matches!(results.first(), Some(Value::I32(0..=76)) | None),
                        "{} {args:?}: {results:?}",
                        entry.name
                    ),
                    Flow::Reissue => assert!(entry.blocks, "{} {args:?} cannot block", entry.name),
                    Flow::Exit(code) => assert!((0..126).contains(&code)),
                    Flow::Trap(_) => {
                        assert!(matches!(entry.name, "proc_exit" | "proc_raise"), "{} {args:?}", entry.name)
                    }
                }
            }
        }
    }
    drop(world);
    let outside: Vec<_> = std::fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(outside.len(), 2, "something was made outside: {outside:?}");
    assert_eq!(std::fs::read(directory().join("secret")).unwrap(), b"secret");
    // The next input begins with nothing.
    let _ = std::fs::remove_dir_all(&mounted);
    std::fs::create_dir_all(&mounted).unwrap();
    Ok(())
}
