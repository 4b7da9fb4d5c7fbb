//! What is written is what is read, and what is read is written the same way.

mod common;

use common::{Parts, Random, Replay, full, full_snapshot, map, reseal, small, snapshot};
use dunlin_base::Value;
use dunlin_snapshot::{
    CHUNK_SIZE, Difference, Entry, Envelope, Limits, Memory, Page, Snapshot, Stored, check, compare, encode,
    encode_with,
};

fn decode(bytes: &[u8]) -> Snapshot {
    Envelope::open(bytes, &Limits::default()).unwrap().decode(&map()).unwrap()
}

#[test]
fn states_survive_and_their_bytes_are_the_only_ones() {
    for seed in 0..150 {
        let original = snapshot(Random(seed).state());
        check(&original.state, &map(), &Limits::default()).unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
        for bytes in [encode(&original).unwrap(), encode_with(&original, &mut Stored).unwrap()] {
            let decoded = decode(&bytes);
            assert!(decoded == original, "seed {seed}: {:?}", compare(&decoded.state, &original.state));
            assert!(encode_with(&decoded, &mut Replay::of(&bytes)).unwrap() == bytes, "seed {seed}");
            assert!(Envelope::open(&bytes, &Limits::default()).unwrap().peek().unwrap() == original);
        }
        assert!(encode(&original).unwrap() == encode(&original.clone()).unwrap(), "seed {seed}");
    }
}

#[test]
fn small_and_full_survive() {
    for original in [snapshot(small()), snapshot(full()), full_snapshot()] {
        let bytes = encode(&original).unwrap();
        assert_eq!(decode(&bytes), original);
        assert_eq!(Parts::of(&bytes).forge(), bytes);
    }
}

#[test]
fn forged_bytes_are_refused_or_canonical() {
    // The digest is made right again after each change, so the decoders themselves stand the test.
    let mut accepted = 0;
    let (original, map) = (encode(&full_snapshot()).unwrap(), map());
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let mut bytes = original.clone();
        for _ in 0..=random.below(3) {
            let at = 56 + random.below(bytes.len() as u64 - 56) as usize;
            match random.below(4) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes[at] = bytes[at].wrapping_add(1),
                _ => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5) as usize],
            }
        }
        reseal(&mut bytes);
        let Ok(envelope) = Envelope::open(&bytes, &Limits::default()) else { continue };
        let Ok(decoded) = envelope.decode(&map) else { continue };
        check(&decoded.state, &map, &Limits::default()).unwrap();
        assert!(encode_with(&decoded, &mut Replay::of(&bytes)).unwrap() == bytes, "seed {seed}");
        accepted += 1;
    }
    assert!(accepted > 100, "only {accepted} were accepted, the test has lost its force");
}

#[test]
fn many_chunks_with_zero_pages_between() {
    let mut state = small();
    let pages = CHUNK_SIZE as u64 / 4096 * 2 + 3;
    let page = |number: u64| match number % 5 {
        0 => Page::Zero,
        _ => Page::Bytes((0..4096u64).map(|index| (index / 16 * number) as u8 | 1).collect()),
    };
    state.memories[0] = Memory { size: 16 << 16, pages: (0..pages).map(|number| (number, page(number))).collect() };
    let original = snapshot(state);
    let bytes = encode(&original).unwrap();
    assert!(decode(&bytes) == original);
    let envelope = Envelope::open(&bytes, &Limits::default()).unwrap();
    let chunks: Vec<_> = envelope.chunks().unwrap().iter().map(|chunk| (chunk.memory, chunk.size)).collect();
    let contents = (pages as usize - pages.div_ceil(5) as usize) * 4096;
    assert_eq!(chunks, [(0, CHUNK_SIZE), (0, contents - CHUNK_SIZE)]);
}

#[test]
fn differences_are_found() {
    let a = full();
    assert_eq!(compare(&a, &a.clone()), []);
    let mut b = a.clone();
    b.entry = Some(Entry::Start);
    b.frames.pop();
    b.frames[0].values[0] = Value::FuncRef(None);
    b.frames[2].safepoint = 4;
    b.globals[0] = Value::I64(43);
    b.tables[0].elements[4] = Value::FuncRef(Some(0));
    b.tables[0].elements[5] = Value::FuncRef(Some(0));
    b.tables[1].elements.pop();
    b.memories[0].size += 65536;
    b.memories[0].pages.remove(2);
    b.memories[0].pages[0].1 = Page::Bytes([1; 4096].into());
    b.memories[0].pages.push((64, Page::Zero));
    b.dropped_data = vec![0, 1];
    b.exceptions.pop();
    b.host[0].version = 4;
    let found = compare(&a, &b);
    let text: Vec<_> = found.iter().map(Difference::to_string).collect();
    assert_eq!(
        text,
        [
            "entered by export \"run →\", the start function",
            "4 frames, 3 frames",
            "frame 0: values 0",
            "frame 2: safepoint 5, safepoint 4",
            "mutable global 0: 42, 43",
            "table 0: elements 4-5",
            "table 1: 2 elements, 1 elements",
            "memory 0: 262144 bytes, 327680 bytes",
            "memory 0: 3 pages: 0, 2, 64",
            "dropped data segments: 1, 4",
            "exceptions 1",
            "host section 0",
        ]
    );
}
