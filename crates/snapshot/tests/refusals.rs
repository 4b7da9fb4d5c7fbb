//! Everything that must be refused is, with the error that says why.

mod common;

use common::{MODULE, Parts, full, full_snapshot, map, reseal, small, snapshot};
use dunlin_base::{Digest, Value, ValueType};
use dunlin_instrument::{Map, PASS_VERSION, Phase};
use dunlin_snapshot::{
    EncodeError, Entry, Envelope, Error, Exception, Features, Frame, HEADER_SIZE, Header, Limits, Memory, Page,
    Problem, SectionKind, Snapshot, State, check, encode,
};

fn open(bytes: &[u8]) -> Result<Envelope<'_>, Error> {
    Envelope::open(bytes, &Limits::default())
}

fn decode(bytes: &[u8]) -> Result<Snapshot, Error> {
    open(bytes)?.decode(&map())
}

/// The problem with a state that was changed by `change`, which the decoder and [`check`] must agree on.
fn refusal(change: impl FnOnce(&mut State)) -> (SectionKind, Option<u32>, Problem) {
    let mut state = full();
    change(&mut state);
    let bytes = encode(&snapshot(state.clone())).unwrap();
    let Err(Error::Section { kind, item, problem, offset }) = decode(&bytes) else { panic!("accepted: {state:?}") };
    let section = *open(&bytes).unwrap().sections().iter().find(|section| section.kind == kind).unwrap();
    assert!((section.offset..section.offset + section.body.len() as u64).contains(&offset), "{offset}");
    let expected = Error::State { kind, item, problem: problem.clone() };
    assert_eq!(check(&state, &map(), &Limits::default()), Err(expected));
    (kind, item, problem)
}

/// The problem with bytes whose section `kind` was changed by `change`.
fn forged(kind: SectionKind, change: impl FnOnce(&mut Vec<u8>)) -> Problem {
    let mut parts = Parts::of(&encode(&full_snapshot()).unwrap());
    change(parts.body(kind.number()));
    match decode(&parts.forge()) {
        Err(Error::Section { kind: found, problem, .. }) if found == kind => problem,
        other => panic!("{:?}", other.map(drop)),
    }
}

#[test]
fn magic_version_length_and_digest_are_checked_in_this_order() {
    let good = encode(&full_snapshot()).unwrap();
    let mut bytes = good.clone();
    bytes[HEADER_SIZE] ^= 1;
    let computed = match open(&bytes) {
        Err(Error::Digest { announced, computed }) if announced == Header::parse(&good).unwrap().digest => computed,
        other => panic!("{other:?}"),
    };
    assert_ne!(computed, Header::parse(&good).unwrap().digest);
    bytes.push(0);
    let length = good.len() as u64;
    assert_eq!(open(&bytes).err(), Some(Error::Length { announced: length, length: length + 1 }));
    bytes[8] = 2;
    assert_eq!(open(&bytes).err(), Some(Error::Version { version: 2 }));
    bytes[0] = b'D';
    assert_eq!(open(&bytes).err(), Some(Error::Magic));
    assert_eq!(open(b"").err(), Some(Error::Magic));
}

#[test]
fn every_truncation_is_refused() {
    let good = encode(&full_snapshot()).unwrap();
    for end in 0..good.len() {
        let found = open(&good[..end]).err();
        let (announced, length) = (good.len() as u64, end as u64);
        let expected = match end {
            0 => Error::Magic,
            1..HEADER_SIZE => Error::Header { length },
            _ => Error::Length { announced, length },
        };
        assert_eq!(found, Some(expected));
        // The same with a header that a forger put right.
        if end >= HEADER_SIZE {
            let mut bytes = good[..end].to_vec();
            reseal(&mut bytes);
            assert!(matches!(open(&bytes), Err(Error::Sections { .. })), "{end}");
        }
    }
}

#[test]
fn every_truncation_of_a_section_is_refused() {
    let good = encode(&full_snapshot()).unwrap();
    for kind in 1..=7 {
        let mut parts = Parts::of(&good);
        while parts.body(kind).pop().is_some() {
            assert!(matches!(decode(&parts.forge()), Err(Error::Section { .. })), "kind {kind}");
        }
        let mut parts = Parts::of(&good);
        parts.body(kind).push(0);
        assert!(matches!(decode(&parts.forge()), Err(Error::Section { .. })), "kind {kind}");
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let good = encode(&snapshot(small())).unwrap();
    for byte in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[byte] ^= 1 << bit;
            assert!(open(&bytes).is_err(), "bit {bit} of byte {byte}");
        }
    }
}

#[test]
fn the_header_must_match_where_it_is_restored() {
    let bytes = encode(&snapshot(small())).unwrap();
    let envelope = open(&bytes).unwrap();
    let mut other = Map { module: Digest::of(b"other"), ..map() };
    let (snapshot_module, given) = (Digest::of(MODULE), other.module);
    assert_eq!(envelope.decode(&other), Err(Error::ForeignModule { snapshot: snapshot_module, given }));
    other.module = snapshot_module;
    other.safepoints.pop();
    let (snapshot_pass, given_pass) = (PASS_VERSION, PASS_VERSION);
    let foreign = Error::ForeignMap { snapshot: map().digest(), snapshot_pass, given: other.digest(), given_pass };
    assert_eq!(envelope.decode(&other), Err(foreign.clone()));
    assert!(foreign.to_string().contains(&format!("instrumentation version {PASS_VERSION}")), "{foreign}");

    assert_eq!(envelope.require(Features::ALL), Ok(()));
    assert_eq!(envelope.require(Features::SIMD), Err(Error::Features { missing: Features::EXCEPTIONS }));
    let unassigned = Snapshot { features: Features::from_bits(1 << 60), ..snapshot(small()) };
    let bytes = encode(&unassigned).unwrap();
    assert_eq!(decode(&bytes), Err(Error::Features { missing: Features::from_bits(1 << 60) }));

    let mut bytes = encode(&unassigned).unwrap();
    bytes[124] = 0x82;
    reseal(&mut bytes);
    assert_eq!(open(&bytes).err(), Some(Error::Flags { bits: 0x82 }));
}

#[test]
fn unknown_sections() {
    let good = encode(&full_snapshot()).unwrap();
    let skipped: Vec<_> = open(&good).unwrap().skipped().map(|section| section.kind).collect();
    assert_eq!(skipped, [SectionKind::Unknown(0x100), SectionKind::Unknown(0x7fff)]);
    let mut parts = Parts::of(&good);
    let unknown = parts.sections.iter_mut().find(|section| section.0 == 0x100).unwrap();
    unknown.2 = 1;
    let bytes = parts.forge();
    let offset = open(&bytes).unwrap().sections().iter().find(|section| section.kind.number() == 0x100).unwrap().offset;
    let refused = Error::Mandatory { kind: SectionKind::Unknown(0x100), version: 1, offset };
    assert_eq!(decode(&bytes), Err(refused.clone()));
    assert!(refused.to_string().contains("kind 0x0100 version 1"), "{refused}");

    // A known kind in an unknown version, mandatory and not.
    let mut parts = Parts::of(&good);
    parts.sections[1].1 = 2;
    assert!(matches!(decode(&parts.forge()), Err(Error::Mandatory { kind: SectionKind::Frames, version: 2, .. })));
    parts.sections[1].2 = 0;
    assert_eq!(decode(&parts.forge()), Err(Error::Presence { kind: SectionKind::Frames, present: false }));
    let mut parts = Parts::of(&good);
    parts.sections[7].1 = 2;
    let read = decode(&parts.forge()).unwrap();
    assert_eq!((read.product.as_deref(), read.extra[0].kind, read.extra.len()), (None, 8, 3));
    assert_eq!(encode(&read).unwrap(), parts.forge());
}

#[test]
fn the_list_of_sections_has_one_form() {
    let good = encode(&full_snapshot()).unwrap();
    let check = |change: &dyn Fn(&mut Parts)| {
        let mut parts = Parts::of(&good);
        change(&mut parts);
        parts.forge()
    };
    let sections = |bytes: Vec<u8>| match open(&bytes) {
        Err(Error::Sections { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    assert!(matches!(sections(check(&|parts| parts.sections.swap(1, 2))), Problem::NotCanonical(_)));
    assert!(matches!(
        sections(check(&|parts| parts.sections.insert(2, parts.sections[1].clone()))),
        Problem::NotCanonical(_)
    ));
    assert!(matches!(sections(check(&|parts| parts.sections[1].2 = 3)), Problem::NotCanonical(_)));
    for section in [1, 2, 3, 4, 5, 6, 8] {
        let bytes = check(&|parts| drop(parts.sections.remove(section)));
        assert!(matches!(decode(&bytes), Err(Error::Presence { present: false, .. })), "{section}");
        let bytes = check(&|parts| parts.sections[section].2 = 0);
        assert!(matches!(decode(&bytes), Err(Error::Section { problem: Problem::NotCanonical(_), .. })), "{section}");
    }
    let bytes = check(&|parts| drop(parts.sections.remove(0)));
    assert_eq!(decode(&bytes), Err(Error::Presence { kind: SectionKind::Module, present: false }));
    let bytes = check(&|parts| parts.header[124] = 0);
    assert_eq!(decode(&bytes), Err(Error::Presence { kind: SectionKind::Module, present: true }));
    let mut bytes = good.clone();
    bytes.extend([0; 40]);
    reseal(&mut bytes);
    assert!(matches!(sections(bytes), Problem::Bytes(_)));
    let mut bytes = good.clone();
    bytes[HEADER_SIZE + 8..HEADER_SIZE + 16].copy_from_slice(&(1u64 << 63).to_le_bytes());
    reseal(&mut bytes);
    assert!(matches!(sections(bytes), Problem::Bytes(_)));
    let mut bytes = good;
    bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    reseal(&mut bytes);
    assert!(matches!(open(&bytes), Err(Error::Limit { what: "number of sections", .. })));
    assert!(matches!(forged(SectionKind::Module, |body| body[0] = 1), Problem::ModuleDigest { .. }));
    assert!(matches!(forged(SectionKind::Meta, |body| body[0] = 0xff), Problem::NotCanonical(_)));
    assert!(matches!(forged(SectionKind::Meta, Vec::clear), Problem::NotCanonical(_)));
    assert!(matches!(forged(SectionKind::Meta, |body| body.resize(257, b'1')), Problem::Limit { .. }));
}

#[test]
fn the_entry_is_one_of_the_module() {
    assert_eq!(refusal(|s| s.entry = Some(Entry::Start)), (SectionKind::Entry, None, Problem::NoStart));
    assert_eq!(forged(SectionKind::Entry, |body| body[0] = 2), Problem::Byte { what: "kind of an entry", byte: 2 });
    assert!(matches!(forged(SectionKind::Entry, |body| body[0] = 0), Problem::NotCanonical(_)));
    assert!(matches!(forged(SectionKind::Entry, |body| body[1] = 0xff), Problem::NotCanonical(_)));
    assert!(matches!(forged(SectionKind::Entry, |body| body.resize(65538, b'a')), Problem::Limit { .. }));
    assert!(matches!(forged(SectionKind::Entry, Vec::clear), Problem::Bytes(_)));
    let with_start = Map { start: Some(1), ..map() };
    let state = State { entry: Some(Entry::Start), ..full() };
    assert_eq!(check(&state, &with_start, &Limits::default()), Ok(()));
    let bytes = encode(&snapshot(state.clone())).unwrap();
    assert_eq!(Envelope::open(&bytes, &Limits::default()).unwrap().decode(&with_start).unwrap().state, state);
}

#[test]
fn frames_must_be_a_stack_of_the_module() {
    use SectionKind::Frames;
    let index = |what, index, count| Problem::Index { what, index, count };
    let at = |item, problem| (Frames, Some(item), problem);
    assert_eq!(refusal(|s| s.frames[3].safepoint = 8), at(3, index("safepoint", 8, 8)));
    assert_eq!(refusal(|s| s.frames[0].phase = Phase::At), at(0, Problem::NotInCall { safepoint: 3 }));
    let import = Frame { safepoint: 2, phase: Phase::Inside, values: vec![Value::I64(0), Value::I32(0)] };
    assert_eq!(refusal(|s| s.frames[0] = import), at(0, Problem::NotInCall { safepoint: 2 }));
    let inner = Frame { safepoint: 7, phase: Phase::Inside, values: vec![Value::FuncRef(None)] };
    assert_eq!(refusal(|s| s.frames.push(inner)), at(3, Problem::NotInCall { safepoint: 6 }));
    let inside_loop = |s: &mut State| {
        s.exceptions.pop();
        s.exceptions[0].values[0] = Value::ExnRef(None);
        s.frames[3] = Frame { safepoint: 4, phase: Phase::Inside, values: vec![Value::I64(0)] };
    };
    assert_eq!(refusal(inside_loop), at(3, Problem::CallWithoutCallee { safepoint: 4 }));
    // Function 2 returns two values, the call at safepoint 3 expects none; function 1 the other way round.
    let returns_nothing = Frame { safepoint: 3, phase: Phase::At, values: vec![Value::FuncRef(None)] };
    let change = |s: &mut State| s.frames[2] = returns_nothing;
    let (kind, item, problem) = refusal(|s| {
        change(s);
        s.frames[2].phase = Phase::Inside;
    });
    assert_eq!((kind, item, problem), at(2, Problem::Results { safepoint: 3, callee: 2 }));
    let types = |index, found, expected| Problem::Type { index, found, expected };
    assert_eq!(refusal(|s| s.frames[2].values[1] = Value::F32(0)), at(2, types(1, Value::F32(0), ValueType::I32)));
    let count = |what, found, expected| Problem::Count { what, found, expected };
    assert_eq!(refusal(|s| s.frames[2].values.truncate(2)), at(2, count("live values", 2, 3)));
    assert_eq!(refusal(|s| s.frames[2].values.push(Value::I32(0))), at(2, count("live values", 4, 3)));
    let func = |index| move |s: &mut State| s.frames[0].values[0] = Value::FuncRef(Some(index));
    assert_eq!(refusal(func(4)), at(0, index("function", 4, 4)));
    assert_eq!(refusal(func(u32::MAX)), at(0, index("function", u32::MAX.into(), 4)));
    assert_eq!(refusal(func(3)), at(0, Problem::NotReferable { index: 0, function: 3 }));

    assert_eq!(forged(Frames, |body| *body = vec![0; 4]), Problem::NoFrames);
    assert_eq!(forged(Frames, |body| body[8] = 2), Problem::Byte { what: "phase", byte: 2 });
    assert_eq!(forged(Frames, |body| body[13] = 0x7f), Problem::Byte { what: "type of a value", byte: 0x7f });
    assert!(matches!(forged(Frames, |body| body[..4].copy_from_slice(&[0xff; 4])), Problem::Bytes(_)));
}

#[test]
fn globals_and_tables_must_be_those_of_the_module() {
    use SectionKind::{Globals, Tables};
    let count = |what, found, expected| Problem::Count { what, found, expected };
    assert_eq!(refusal(|s| s.globals.push(Value::I32(0))), (Globals, None, count("mutable globals", 4, 3)));
    assert_eq!(refusal(|s| s.globals[1] = Value::FuncRef(None)), (Globals, None, Problem::Null { index: 1 }));
    let found = Value::I32(0);
    let wrong = Problem::Type { index: 0, found, expected: ValueType::I64 };
    assert_eq!(refusal(|s| s.globals[0] = found), (Globals, None, wrong));

    assert_eq!(refusal(|s| drop(s.tables.pop())), (Tables, None, count("tables", 2, 3)));
    let wrong = Problem::Type { index: 7, found, expected: ValueType::FuncRef };
    assert_eq!(refusal(|s| s.tables[0].elements[7] = found), (Tables, Some(0), wrong));
    let element = |index, value| move |s: &mut State| s.tables[0].elements[index] = Value::FuncRef(Some(value));
    let unknown = Problem::Index { what: "function", index: 4, count: 4 };
    assert_eq!(refusal(element(599, 4)), (Tables, Some(0), unknown));
    assert_eq!(refusal(element(0, 3)), (Tables, Some(0), Problem::NotReferable { index: 0, function: 3 }));
    let null = |s: &mut State| s.tables[2].elements[1] = Value::FuncRef(None);
    assert_eq!(refusal(null), (Tables, Some(2), Problem::Null { index: 1 }));
    let size = |found, minimum, maximum| Problem::Size { found, minimum, maximum, multiple_of: 1 };
    let grown = |s: &mut State| s.tables[0].elements.resize(1001, Value::FuncRef(None));
    assert_eq!(refusal(grown), (Tables, Some(0), size(1001, 0, 1000)));
    assert_eq!(refusal(|s| s.tables[1].elements.truncate(1)), (Tables, Some(1), size(1, 2, u64::MAX)));

    // Runs: u32 tables, then u32 size, u32 runs, (u32 300, null), (u32 300, tag, u32 1).
    let runs = |change: &dyn Fn(&mut Vec<u8>)| forged(Tables, |body| change(body));
    assert!(matches!(runs(&|body| body[12] += 1), Problem::NotCanonical("runs are longer than the table")));
    assert!(matches!(runs(&|body| body[12] -= 1), Problem::NotCanonical("runs are shorter than the table")));
    assert!(matches!(runs(&|body| body[12..16].fill(0)), Problem::NotCanonical(_)));
    assert!(matches!(runs(&|body| body[12..16].fill(0xff)), Problem::NotCanonical(_)));
    let split = |body: &mut Vec<u8>| {
        body[8] += 1;
        body.splice(12..17, [vec![44, 0, 0, 0, 0x10], vec![0, 1, 0, 0, 0x10]].concat());
    };
    assert!(matches!(runs(&split), Problem::NotCanonical("a run of equal elements is empty or cut in two")));
}

#[test]
fn memories_must_be_those_of_the_module() {
    use SectionKind::Memories;
    let size = |found, minimum, maximum, multiple_of| Problem::Size { found, minimum, maximum, multiple_of };
    let sized = |memory: usize, size| move |s: &mut State| s.memories[memory] = Memory { size, pages: Vec::new() };
    let (page, most) = (1 << 16, 16 << 16);
    assert_eq!(refusal(sized(0, 0)), (Memories, Some(0), size(0, page, most, page)));
    assert_eq!(refusal(sized(0, 17 * page)), (Memories, Some(0), size(17 * page, page, most, page)));
    assert_eq!(refusal(sized(0, page + 1)), (Memories, Some(0), size(page + 1, page, most, page)));
    assert_eq!(refusal(sized(1, 4999)), (Memories, Some(1), size(4999, 5000, 700_000, 1)));
    assert_eq!(refusal(sized(1, 1 << 63)), (Memories, Some(1), size(1 << 63, 5000, 700_000, 1)));
    assert_eq!(refusal(sized(1, u64::MAX)), (Memories, Some(1), size(u64::MAX, 5000, 700_000, 1)));
    let count = Problem::Count { what: "memories", found: 1, expected: 2 };
    assert_eq!(refusal(|s| drop(s.memories.pop())), (Memories, None, count));

    // u32 memories, u64 size, u32 ranges, then (u64 first, u64 length, u8 kind): 0-1 zero, 2 bytes, 7-8 bytes, 63 zero.
    let ranges = |change: &dyn Fn(&mut Vec<u8>)| forged(Memories, |body| change(body));
    const FIRST: usize = 16;
    const RANGE: usize = 17;
    assert!(matches!(ranges(&|body| body[FIRST + RANGE] = 1), Problem::NotCanonical(_)), "overlap");
    assert!(matches!(ranges(&|body| body[FIRST + 8] = 0), Problem::NotCanonical(_)), "empty");
    assert!(matches!(ranges(&|body| body[FIRST + 2 * RANGE] = 3), Problem::NotCanonical(_)), "cut in two");
    assert!(matches!(ranges(&|body| body[FIRST + 2 * RANGE] = 0), Problem::NotCanonical(_)), "descending");
    assert_eq!(ranges(&|body| body[FIRST + 16] = 2), Problem::Byte { what: "kind of pages", byte: 2 });
    assert_eq!(ranges(&|body| body[FIRST + 3 * RANGE] = 64), Problem::Page { page: 64, count: 64 });
    assert_eq!(ranges(&|body| body[FIRST + 3 * RANGE + 8] = 2), Problem::Page { page: 64, count: 64 });
    let huge = |body: &mut Vec<u8>| body[FIRST + 3 * RANGE + 8..][..8].fill(0xff);
    assert_eq!(ranges(&huge), Problem::Page { page: u64::MAX - 1, count: 64 });
    let stored = FIRST + 4 * RANGE;
    assert!(matches!(ranges(&|body| body[stored + 3] = 1), Problem::NotCanonical(_)), "longer than the chunk");
    assert!(matches!(ranges(&|body| body[stored + 4] ^= 1), Problem::Chunk(_)), "not zstd");
    let zeros = |body: &mut Vec<u8>| {
        let length = u32::from_le_bytes(body[stored..stored + 4].try_into().unwrap()) as usize;
        let chunk = [(3u32 * 4096).to_le_bytes().to_vec(), vec![0; 3 * 4096]].concat();
        body.splice(stored..stored + 4 + length, chunk);
    };
    assert_eq!(ranges(&zeros), Problem::NotCanonical("a page of zeros is given as bytes"));
}

#[test]
fn segments_and_exceptions_must_be_those_of_the_module() {
    use SectionKind::{Dropped, Exceptions};
    let index = |what, index, count| Problem::Index { what, index, count };
    assert_eq!(refusal(|s| s.dropped_data.push(5)), (Dropped, None, index("data segment", 5, 5)));
    assert_eq!(refusal(|s| s.dropped_elems.push(3)), (Dropped, None, index("element segment", 3, 3)));
    assert_eq!(refusal(|s| s.exceptions[1].tag = 2), (Exceptions, Some(1), index("tag", 2, 2)));
    let count = Problem::Count { what: "payload values", found: 2, expected: 1 };
    assert_eq!(refusal(|s| s.exceptions[1].values.push(Value::I32(0))), (Exceptions, Some(1), count));
    let found = Value::I64(0);
    let wrong = Problem::Type { index: 0, found, expected: ValueType::I32 };
    assert_eq!(refusal(|s| s.exceptions[1].values[0] = found), (Exceptions, Some(1), wrong));
    assert!(matches!(forged(Dropped, |body| body[4] = 4), Problem::NotCanonical(_)), "twice");
    // Exception 0: u32 count, u32 tag, u32 values, tag, u32 exception 1.
    assert_eq!(forged(Exceptions, |body| body[13] = 0), Problem::ExceptionCycle { exception: 0 });
    assert_eq!(forged(Exceptions, |body| body[13] = 2), index("exception", 2, 2));
}

#[test]
fn the_encoder_writes_nothing_that_the_decoder_refuses_in_every_module() {
    let refused = |change: &dyn Fn(&mut Snapshot)| {
        let mut snapshot = full_snapshot();
        change(&mut snapshot);
        encode(&snapshot).unwrap_err()
    };
    let state = |change: &dyn Fn(&mut State)| match refused(&|snapshot| change(&mut snapshot.state)) {
        EncodeError::State(Error::State { kind, problem, .. }) => (kind, problem),
        other => panic!("{other:?}"),
    };
    assert_eq!(state(&|s| s.entry = None), (SectionKind::Entry, Problem::NoEntry));
    let long = Entry::Export("a".repeat(65537));
    assert!(matches!(state(&|s| s.entry = Some(long.clone())).1, Problem::Limit { .. }));
    assert_eq!(state(&|s| s.frames.clear()), (SectionKind::Frames, Problem::NoFrames));
    assert!(matches!(state(&|s| s.memories[0].pages.swap(0, 1)).1, Problem::NotCanonical(_)));
    assert!(matches!(state(&|s| s.memories[0].pages[1].0 = 0).1, Problem::NotCanonical(_)));
    assert!(matches!(state(&|s| s.memories[0].pages[5].0 = 64).1, Problem::Page { page: 64, count: 64 }));
    assert!(matches!(state(&|s| s.memories[0].pages[5].0 = u64::MAX).1, Problem::Page { .. }));
    let page = |bytes: &'static [u8]| move |s: &mut State| s.memories[0].pages[2].1 = Page::Bytes(bytes.into());
    assert!(matches!(state(&page(&[1; 4095])).1, Problem::Count { .. }));
    assert!(matches!(state(&page(&[1; 4097])).1, Problem::Count { .. }));
    assert!(matches!(state(&page(&[0; 4096])).1, Problem::NotCanonical(_)));
    assert!(matches!(state(&|s| s.dropped_data = vec![1, 1]).1, Problem::NotCanonical(_)));
    assert!(matches!(state(&|s| s.globals[2] = Value::ExnRef(Some(2))).1, Problem::Index { .. }));
    assert!(matches!(state(&|s| s.frames[1].values[2] = Value::ExnRef(Some(1))).1, Problem::NotCanonical(_)));
    let unused = Exception { tag: 0, values: vec![Value::I32(0)] };
    assert!(matches!(state(&|s| s.exceptions.push(unused.clone())).1, Problem::NotCanonical(_)));
    assert!(matches!(state(&|s| s.host[0].kind = 0x8000).1, Problem::Index { .. }));
    assert!(matches!(state(&|s| s.host[0].kind = 0x7fff).1, Problem::NotCanonical(_)));
    let part = |change: &dyn Fn(&mut Snapshot)| match refused(change) {
        EncodeError::Part { what, .. } => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(part(&|s| s.module.digest = Digest::of(b"")), "module");
    assert_eq!(part(&|s| s.product = Some(String::new())), "product version");
    assert_eq!(part(&|s| s.extra.swap(0, 1)), "extra section");
    assert_eq!(part(&|s| s.extra[0].kind = 5), "extra section");
    assert_eq!(part(&|s| s.extra[1].kind = 0x8000), "extra section");
    assert_eq!(part(&|s| (s.extra[0].kind, s.extra[0].version) = (8, 2)), "extra section");
}

#[test]
fn limits_hold() {
    let bytes = encode(&full_snapshot()).unwrap();
    let with = |change: &dyn Fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        let from_bytes = Envelope::open(&bytes, &limits).and_then(|envelope| envelope.decode(&map()));
        (from_bytes.map(drop), check(&full(), &map(), &limits))
    };
    // The full state uses exactly these amounts.
    assert_eq!(
        with(&|l| {
            (l.total_bytes, l.sections, l.module_bytes) = (bytes.len() as u64, 13, MODULE.len() as u64);
            (l.frames, l.table_elements, l.exceptions, l.host_bytes) = (4, 604, 2, 10);
            (l.memory_bytes, l.page_bytes) = ((4 << 16) + 5001, 3 * 4096 + 905);
        }),
        (Ok(()), Ok(()))
    );
    assert!(matches!(with(&|l| l.total_bytes = bytes.len() as u64 - 1).0, Err(Error::Limit { what: "length", .. })));
    assert!(matches!(with(&|l| l.sections = 12).0, Err(Error::Limit { what: "number of sections", .. })));
    let section = |change: &dyn Fn(&mut Limits)| match with(change).0 {
        Err(Error::Section { kind, problem: Problem::Limit { .. } | Problem::Bytes(_), .. }) => kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(section(&|l| l.module_bytes = 7), SectionKind::Module);
    assert_eq!(section(&|l| l.host_bytes = 9), SectionKind::Host(0));
    let both = |change: &dyn Fn(&mut Limits)| {
        let Err(Error::State { kind, problem: Problem::Limit { .. }, .. }) = with(change).1 else { panic!("accepted") };
        assert_eq!(section(change), kind);
        kind
    };
    assert_eq!(both(&|l| l.frames = 3), SectionKind::Frames);
    assert_eq!(both(&|l| l.table_elements = 603), SectionKind::Tables);
    assert_eq!(both(&|l| l.memory_bytes = (4 << 16) + 5000), SectionKind::Memories);
    assert_eq!(both(&|l| l.page_bytes = 3 * 4096 + 904), SectionKind::Memories);
    assert_eq!(both(&|l| l.exceptions = 1), SectionKind::Exceptions);
}
