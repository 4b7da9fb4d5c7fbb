//! S13: keys are in no text, no core dump and, once dropped, nowhere in memory.

mod common;

use std::borrow::Cow;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use common::{SERVICE, label};
use dunlin_seal::{EpochKey, LocalKey, ServiceRoot, VolumeSeal, harden};
use dunlin_store::{ChunkKind, Sealing as _};

const CHILD: &str = "DUNLIN_TEST_HIDDEN_CHILD";
/// What the needles are kept under, so that they are not found themselves.
const MASK: u8 = 0xa7;

fn masked(key: &[u8; 32]) -> [u8; 32] {
    key.map(|byte| byte ^ MASK)
}

/// How often the masked needle is in this process's memory.
fn found(needle: &[u8; 32]) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let mut count = 0;
    let mut window = vec![0; (1 << 20) + 31];
    for line in maps.lines() {
        let mut fields = line.split(' ');
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        let own = window.as_ptr() as u64;
        let mut at = start;
        while at < end {
            let length = (end - at).min(window.len() as u64) as usize;
            // What is read is in the window as well: the window itself is left out.
            let is_window = at < own + window.len() as u64 && own < at + length as u64;
            let read = if is_window { 0 } else { memory.read_at(&mut window[..length], at).unwrap_or(0) };
            let bytes = &window[..read];
            count += bytes.windows(32).filter(|bytes| bytes.iter().zip(needle).all(|(a, b)| a ^ MASK == *b)).count();
            window.fill(0);
            at += 1 << 20;
        }
    }
    count
}

fn child() {
    let scratch = common::Scratch::new();
    let path = scratch.0.join("root");
    let root = ServiceRoot::create_file(&path).unwrap();
    let local = LocalKey::generate().unwrap();
    let epoch: EpochKey = root.epoch_key(SERVICE, 5);
    // The root's bytes are in the file only; the test reads them from there.
    let text = std::fs::read_to_string(&path).unwrap();
    let digits = text.lines().nth(1).unwrap().as_bytes();
    let nibble = |digit: u8| (digit as char).to_digit(16).unwrap() as u8;
    let mut root_needle = [0; 32];
    for (byte, pair) in root_needle.iter_mut().zip(digits.chunks(2)) {
        *byte = (nibble(pair[0]) << 4 | nibble(pair[1])) ^ MASK;
    }
    let needles = [root_needle, masked(epoch.expose()), masked(local.expose())];
    println!("needles {needles:?}");

    // Work that takes copies of keys through ciphers, hashes and errors.
    let objects = epoch.objects();
    let sealed = objects.seal(&label("name", 1), &[1; 100_000]).unwrap();
    let volume = VolumeSeal::new(&epoch, Some(&root.epoch_key(SERVICE, 4)));
    let ring = volume.seal(ChunkKind::Root, b"v", b"root").into_owned();
    volume.open(ChunkKind::Root, b"v", Cow::Owned(ring.clone())).unwrap();
    for error in [
        objects.open(&label("other", 1), &sealed).unwrap_err(),
        objects.open(&label("name", 2), &sealed).unwrap_err(),
        root.epoch_key(SERVICE, 6).objects().open(&label("name", 1), &sealed).unwrap_err(),
        ServiceRoot::create_file(&path).unwrap_err(),
    ] {
        println!("{error} {error:?}");
    }
    println!("{:?}", VolumeSeal::new(&root.epoch_key(SERVICE, 6), None).open(ChunkKind::Root, b"v", Cow::Owned(ring)));
    println!("{root:?} {local:?} {epoch:?} {objects:?} {volume:?} {:#?}", root.secrets(SERVICE));
    let alive = needles.map(|needle| found(&needle));
    assert!(alive.iter().all(|count| *count == 1), "each key is in memory once: {alive:?}");
    drop((root, local, epoch, objects, volume));
    let dead = needles.map(|needle| found(&needle));
    assert_eq!(dead, [0; 3], "a key is still in memory");
    println!("wiped");

    harden().unwrap();
    let held = ServiceRoot::from_file(&path).unwrap();
    println!("{held:?} dumpable {:?}", rustix::process::dumpable_behavior().unwrap());
    std::process::abort();
}

#[test]
fn s13_keys_are_in_no_text_no_dump_and_not_in_memory_once_dropped() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let scratch = common::Scratch::new();
    let name = "s13_keys_are_in_no_text_no_dump_and_not_in_memory_once_dropped";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .current_dir(&scratch.0)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("wiped") && text.contains("dumpable NotDumpable"), "{text}");
    assert_eq!(output.status.signal(), Some(6), "it ends by a signal that dumps core");
    assert!(!output.status.core_dumped(), "and dumped none");
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0, "nothing was left behind");

    let needles: Vec<u8> = text
        .lines()
        .find_map(|line| line.split_once("needles ").map(|(_, list)| list))
        .unwrap()
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|number| number.parse::<u8>().ok())
        .map(|byte| byte ^ MASK)
        .collect();
    assert_eq!(needles.len(), 96);
    let shown: String = text.lines().filter(|line| !line.contains("needles ")).collect();
    for key in needles.chunks(32) {
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let list = key.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        assert!(!shown.to_lowercase().contains(&hex[..16]), "in hexadecimal");
        assert!(!shown.contains(&list[..list.len() / 2]), "as numbers");
        assert!(!output.stdout.windows(8).any(|window| window == &key[..8]), "raw");
    }
}
