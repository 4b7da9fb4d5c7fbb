//! Goal: sealed objects and chunks from an adversary end in bytes that were sealed or in an error, without a panic and
//! without allocating by a length that they declare.
//!
//! Method: the input is opened as it is; then, as changes to a genuine object and a genuine root, at the places that the
//! first bytes name. Nothing but the genuine bytes may open.

#![no_main]

use std::sync::LazyLock;

use dunlin_seal::{Kind, Label, ObjectSeal, ServiceRoot, VolumeSeal};
use dunlin_store::{ChunkKind, Sealing as _};
use libfuzzer_sys::fuzz_target;

const LABEL: Label<'_> = Label { kind: Kind::Snapshot, name: "name", version: 1 };

struct Genuine {
    objects: ObjectSeal,
    volume: VolumeSeal,
    object: Vec<u8>,
    root: Vec<u8>,
}

static GENUINE: LazyLock<Genuine> = LazyLock::new(|| {
    let root = ServiceRoot::from_bytes(&[1; 32]);
    let key = root.epoch_key([2; 16], 3);
    let objects = key.objects();
    let volume = VolumeSeal::new(&key, Some(&root.epoch_key([2; 16], 2)));
    let object = objects.seal(&LABEL, &[7; 70_000]).expect("seals");
    let root = volume.seal(ChunkKind::Root, b"v", b"root").into_owned();
    Genuine { objects, volume, object, root }
});

fn changed(genuine: &[u8], data: &[u8]) -> Option<Vec<u8>> {
    let (at, change) = data.split_first_chunk::<4>()?;
    let mut bytes = genuine.to_vec();
    let at = u32::from_le_bytes(*at) as usize % (bytes.len() + 1);
    let end = (at + change.len()).min(bytes.len());
    bytes.splice(at..end, change.iter().copied());
    (bytes != genuine).then_some(bytes)
}

fuzz_target!(|data: &[u8]| {
    let genuine = &*GENUINE;
    assert!(genuine.objects.open(&LABEL, data).is_err());
    for kind in [ChunkKind::Root, ChunkKind::Data] {
        assert!(genuine.volume.open(kind, b"v", data.into()).is_err());
    }
    if let Some(object) = changed(&genuine.object, data) {
        assert!(genuine.objects.open(&LABEL, &object).is_err());
    }
    if let Some(root) = changed(&genuine.root, data) {
        assert!(genuine.volume.open(ChunkKind::Root, b"v", root.into()).is_err());
    }
});
