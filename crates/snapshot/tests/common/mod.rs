//! A module's map made by hand, states of it made from a seed, and tools to forge snapshots.

#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::VecDeque;
use std::io;

use dunlin_base::{Digest, Hasher, PAGE_SIZE, Value, ValueType};
use dunlin_instrument::{
    ControlLayout, FunctionInfo, GlobalInfo, KnownDigest, LiveValue, Map, MemoryInfo, PASS_VERSION, Phase, Safepoint,
    SafepointKind, Slot, TableInfo,
};
use dunlin_snapshot::{
    Compressor, Entry, Envelope, Exception, Extra, Features, Frame, HEADER_SIZE, HostSection, Limits, Memory, Module,
    Page, Snapshot, State, Table,
};

pub(crate) const MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// Functions: 0 imported, 1 `[] -> []`, 2 `[i64] -> [i32 f64]`, 3 never on a stack and never referred to.
pub(crate) fn map() -> Map {
    use SafepointKind::{Call, Import, Loop, TailCall};
    use ValueType::{ExnRef, ExternRef, F32, F64, FuncRef, I32, I64, TypedFuncRef, V128};
    let function = |params: &[ValueType], results: &[ValueType], first_safepoint, safepoints, escapes| FunctionInfo {
        params: params.to_vec(),
        results: results.to_vec(),
        first_safepoint,
        safepoints,
        escapes,
    };
    let safepoint = |function, offset, kind, live: &[ValueType]| {
        let live = (0..).zip(live).map(|(index, ty)| LiveValue { slot: Slot::Local(index), ty: *ty }).collect();
        Safepoint { function, offset, kind, live }
    };
    let table = |ty, nullable, minimum, maximum| TableInfo { imported: false, ty, nullable, minimum, maximum };
    let global = |ty, nullable, mutable| GlobalInfo { imported: false, ty, nullable, mutable };
    Map {
        module: Digest::of(MODULE),
        imported_functions: 1,
        functions: vec![
            function(&[], &[I32], 0, 0, true),
            function(&[], &[], 0, 4, true),
            function(&[I64], &[I32, F64], 4, 4, true),
            function(&[], &[], 8, 0, false),
        ],
        safepoints: vec![
            safepoint(1, 10, Loop, &[I32, I64, F32, F64, V128]),
            safepoint(1, 20, Call, &[FuncRef, ExternRef, ExnRef, I32, F64]),
            safepoint(1, 30, Import, &[I64, I32]),
            safepoint(1, 40, Call, &[TypedFuncRef(0)]),
            safepoint(2, 50, Loop, &[I64]),
            safepoint(2, 60, Call, &[I64, I32, F64]),
            safepoint(2, 70, Import, &[ExnRef]),
            safepoint(2, 80, TailCall, &[FuncRef]),
        ],
        memories: vec![
            MemoryInfo { imported: false, memory64: false, page_size_log2: 16, minimum: 1, maximum: Some(16) },
            MemoryInfo { imported: false, memory64: true, page_size_log2: 0, minimum: 5000, maximum: Some(700_000) },
        ],
        tables: vec![
            table(FuncRef, true, 0, Some(1000)),
            table(ExternRef, true, 2, None),
            table(TypedFuncRef(0), false, 1, Some(4)),
        ],
        globals: vec![
            global(I32, false, false),
            global(I64, false, true),
            global(FuncRef, false, true),
            global(ExnRef, true, true),
        ],
        tags: vec![vec![I32], vec![ExnRef, I64]],
        data_segments: 5,
        elem_segments: 3,
        start: None,
        control: ControlLayout { dropped_data: 16, dropped_elems: 21, frames: 24, largest_record: 64, pages: 1 },
        ref_tables: vec![FuncRef, ExternRef, ExnRef, TypedFuncRef(0)],
        known_digest: KnownDigest::default(),
    }
}

/// A snapshot of `state` that fits [`map`].
pub(crate) fn snapshot(state: State) -> Snapshot {
    Snapshot {
        module: Module { digest: Digest::of(MODULE), embedded: None },
        map_digest: map().digest(),
        pass_version: PASS_VERSION,
        features: Features::SIMD.union(Features::EXCEPTIONS),
        product: Some("0.1.0".to_owned()),
        state,
        extra: Vec::new(),
    }
}

/// The smallest state that fits [`map`].
pub(crate) fn small() -> State {
    State {
        entry: Some(Entry::Export("run".to_owned())),
        frames: vec![Frame { safepoint: 2, phase: Phase::Inside, values: vec![Value::I64(-1), Value::I32(7)] }],
        globals: vec![Value::I64(1), Value::FuncRef(Some(0)), Value::ExnRef(None)],
        tables: vec![
            Table { elements: Vec::new() },
            Table { elements: vec![Value::ExternRef(None); 2] },
            Table { elements: vec![Value::FuncRef(Some(1))] },
        ],
        memories: vec![Memory { size: 1 << 16, pages: Vec::new() }, Memory { size: 5000, pages: Vec::new() }],
        ..State::default()
    }
}

/// A state in which everything occurs.
pub(crate) fn full() -> State {
    let values = |values: &[Value]| values.to_vec();
    let page = |seed: usize, size: usize| -> Page {
        Page::Bytes((0..size).map(|index| (index / 16 * seed) as u8 | 1).collect())
    };
    State {
        entry: Some(Entry::Export("run \u{2192}".to_owned())),
        frames: vec![
            Frame { safepoint: 3, phase: Phase::Inside, values: values(&[Value::FuncRef(Some(2))]) },
            Frame {
                safepoint: 1,
                phase: Phase::Inside,
                values: values(&[
                    Value::FuncRef(None),
                    Value::ExternRef(Some(u64::MAX)),
                    Value::ExnRef(Some(0)),
                    Value::I32(0),
                    Value::F64(0),
                ]),
            },
            Frame {
                safepoint: 5,
                phase: Phase::Inside,
                values: values(&[Value::I64(i64::MIN), Value::I32(-1), Value::F64(0x7ff8_0000_0000_0001)]),
            },
            Frame { safepoint: 6, phase: Phase::Inside, values: values(&[Value::ExnRef(Some(1))]) },
        ],
        globals: values(&[Value::I64(42), Value::FuncRef(Some(1)), Value::ExnRef(Some(0))]),
        tables: vec![
            Table { elements: [[Value::FuncRef(None); 300], [Value::FuncRef(Some(1)); 300]].concat() },
            Table { elements: values(&[Value::ExternRef(Some(3)), Value::ExternRef(None)]) },
            Table { elements: values(&[Value::FuncRef(Some(0)), Value::FuncRef(Some(2))]) },
        ],
        memories: vec![
            Memory {
                size: 4 << 16,
                pages: vec![
                    (0, Page::Zero),
                    (1, Page::Zero),
                    (2, page(1, PAGE_SIZE)),
                    (7, page(2, PAGE_SIZE)),
                    (8, page(3, PAGE_SIZE)),
                    (63, Page::Zero),
                ],
            },
            Memory { size: 5001, pages: vec![(1, page(4, 5001 - PAGE_SIZE))] },
        ],
        dropped_data: vec![0, 4],
        dropped_elems: vec![2],
        exceptions: vec![
            Exception { tag: 1, values: values(&[Value::ExnRef(Some(1)), Value::I64(9)]) },
            Exception { tag: 0, values: values(&[Value::I32(3)]) },
        ],
        host: vec![
            HostSection { kind: 0, version: 3, mandatory: true, bytes: b"clock".to_vec() },
            HostSection { kind: 0x7fff, version: 1, mandatory: false, bytes: Vec::new() },
        ],
    }
}

/// [`full`] with its module inside and sections that this version does not know.
pub(crate) fn full_snapshot() -> Snapshot {
    let extra = |kind, version, bytes: &[u8]| Extra { kind, version, bytes: bytes.to_vec() };
    Snapshot {
        module: Module { digest: Digest::of(MODULE), embedded: Some(MODULE.to_vec()) },
        extra: vec![extra(0x0100, 1, b"later"), extra(0x7fff, 9, b"")],
        ..snapshot(full())
    }
}

/// Random numbers from a seed (splitmix64).
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    /// A value of type `ty`; `exceptions` counts those that have been referred to.
    fn value(&mut self, ty: ValueType, nullable: bool, exceptions: &mut u32) -> Value {
        let null = nullable && self.chance(3);
        match ty {
            ValueType::I32 => Value::I32(self.next() as i32),
            ValueType::I64 => Value::I64(self.next() as i64),
            ValueType::F32 => Value::F32(self.next() as u32),
            ValueType::F64 => Value::F64(self.next()),
            ValueType::V128 => Value::V128(u128::from(self.next()) << 64 | u128::from(self.next())),
            ValueType::FuncRef | ValueType::TypedFuncRef(_) => Value::FuncRef((!null).then(|| self.below(3) as u32)),
            ValueType::ExternRef => Value::ExternRef((!null).then(|| self.next())),
            ValueType::ExnRef if null || *exceptions > 20 => Value::ExnRef(None),
            ValueType::ExnRef => {
                let index = self.below(u64::from(*exceptions) + 1) as u32;
                *exceptions = (*exceptions).max(index + 1);
                Value::ExnRef(Some(index))
            }
        }
    }

    /// A state that fits [`map`].
    pub(crate) fn state(&mut self) -> State {
        let map = map();
        let mut exceptions = 0;
        let mut frames = Vec::new();
        let mut function = 1;
        for left in (0..=self.below(12)).rev() {
            let (safepoint, phase) = match (left, function) {
                (0, 1) => (self.below(4), Phase::At),
                (0, _) => (4 + self.below(4), Phase::At),
                (_, 1) => (1 + 2 * self.below(2), Phase::Inside),
                (_, _) => (5, Phase::Inside),
            };
            function = if safepoint == 3 { 1 } else { 2 };
            let import = matches!(safepoint, 2 | 6) && self.chance(2);
            let phase = if import { Phase::Inside } else { phase };
            let live = &map.safepoints[safepoint as usize].live;
            let values = live.iter().map(|live| self.value(live.ty, true, &mut exceptions)).collect();
            frames.push(Frame { safepoint: safepoint as u32, phase, values });
        }
        let mutable = map.globals.iter().filter(|global| global.mutable);
        let globals = mutable.map(|global| self.value(global.ty, global.nullable, &mut exceptions)).collect();
        let tables = map.tables.iter().map(|table| {
            let size = table.minimum + self.below(table.maximum.unwrap_or(40) - table.minimum + 1);
            let mut elements = Vec::new();
            while (elements.len() as u64) < size {
                let run = 1 + self.below(5).min(size - elements.len() as u64 - 1);
                elements.extend(vec![self.value(table.ty, table.nullable, &mut exceptions); run as usize]);
            }
            Table { elements }
        });
        let tables = tables.collect();
        let memories = vec![
            {
                let size = (1 + self.below(16)) << 16;
                self.memory(size)
            },
            {
                let size = 5000 + self.below(695_001);
                self.memory(size)
            },
        ];
        let segments = |random: &mut Self, count| (0..count).filter(|_| random.chance(3)).collect();
        let (dropped_data, dropped_elems) = (segments(self, 5), segments(self, 3));
        let mut list = Vec::new();
        while list.len() < exceptions as usize {
            let tag = self.below(2) as u32;
            // Only later exceptions inside, so that no cycle comes about.
            let inner = (list.len() as u32 + 1 < exceptions).then(|| list.len() as u32 + 1);
            let values = match tag {
                0 => vec![Value::I32(self.next() as i32)],
                _ => vec![Value::ExnRef(inner), Value::I64(self.next() as i64)],
            };
            list.push(Exception { tag, values });
        }
        let host = (0..6u16).filter(|_| self.chance(2)).collect::<Vec<_>>();
        let host = host.into_iter().map(|kind| HostSection {
            kind: kind * 100,
            version: self.next() as u16,
            mandatory: self.chance(2),
            bytes: vec![kind as u8; self.below(50) as usize],
        });
        let host = host.collect();
        let entry = Some(Entry::Export(format!("run {}", self.below(100))));
        State { entry, frames, globals, tables, memories, dropped_data, dropped_elems, exceptions: list, host }
    }

    fn memory(&mut self, size: u64) -> Memory {
        let mut pages = Vec::new();
        let density = 1 + self.below(6);
        for number in 0..size.div_ceil(PAGE_SIZE as u64) {
            if !self.chance(density) {
                continue;
            }
            let length = (size - number * PAGE_SIZE as u64).min(PAGE_SIZE as u64);
            let (seed, mask) = (self.next(), [0, 0x0f, 0xff][self.below(3) as usize]);
            let mut random = Random(seed);
            let mut bytes: Box<[u8]> = (0..length).map(|_| random.next() as u8 & mask).collect();
            bytes[length as usize - 1] |= 1;
            pages.push((number, if self.chance(4) { Page::Zero } else { Page::Bytes(bytes) }));
        }
        Memory { size, pages }
    }
}

/// Gives back the compressed chunks of a snapshot, in their order.
pub(crate) struct Replay(VecDeque<Vec<u8>>);

impl Replay {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let chunks = Envelope::open(bytes, &Limits::default()).unwrap().chunks().unwrap();
        Self(chunks.iter().map(|chunk| chunk.stored.to_vec()).collect())
    }
}

impl Compressor for Replay {
    fn compress<'a>(&'a mut self, chunk: &'a [u8]) -> io::Result<&'a [u8]> {
        self.0.rotate_left(1);
        Ok(self.0.back().map_or(chunk, Vec::as_slice))
    }
}

/// A snapshot taken apart.
pub(crate) struct Parts {
    pub(crate) header: Vec<u8>,
    /// Kind, version, flags, body.
    pub(crate) sections: Vec<(u16, u16, u32, Vec<u8>)>,
}

impl Parts {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let envelope = Envelope::open(bytes, &Limits::default()).unwrap();
        let sections = envelope.sections().iter();
        let sections =
            sections.map(|one| (one.kind.number(), one.version, u32::from(one.mandatory), one.body.to_vec())).collect();
        Self { header: bytes[..HEADER_SIZE].to_vec(), sections }
    }

    pub(crate) fn body(&mut self, kind: u16) -> &mut Vec<u8> {
        &mut self.sections.iter_mut().find(|section| section.0 == kind).unwrap().3
    }

    /// The snapshot again, with right counts and digest.
    pub(crate) fn forge(&self) -> Vec<u8> {
        let mut bytes = self.header.clone();
        for (kind, version, flags, body) in &self.sections {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(version.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes.extend((body.len() as u64).to_le_bytes());
            bytes.extend(body);
        }
        bytes[12..16].copy_from_slice(&(self.sections.len() as u32).to_le_bytes());
        reseal(&mut bytes);
        bytes
    }
}

/// Corrects length and digest, as a forger would.
pub(crate) fn reseal(bytes: &mut [u8]) {
    let length = bytes.len() as u64;
    bytes[16..24].copy_from_slice(&length.to_le_bytes());
    let mut hasher = Hasher::default();
    hasher.update(&bytes[..24]);
    hasher.update(&bytes[56..]);
    bytes[24..56].copy_from_slice(&hasher.finish().0);
}
