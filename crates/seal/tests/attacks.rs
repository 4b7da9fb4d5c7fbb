//! What an adversary who holds the disk can try: S1 to S6 of the list of attacks, and S12.

mod common;

use std::borrow::Cow;
use std::fs;

use common::{Disk, Refused, Register, SERVICE, Scratch, TestChecks, TestKey, copy, key, label, ledger_key, root};
use dunlin_handover::boot::{Blob, Boot, decide};
use dunlin_handover::ledger::Ledger as _;
use dunlin_handover::{Nonce, ServiceId};
use dunlin_seal::{Error, Kind, Label, LocalKey, ObjectSeal, StagingKey, VolumeSeal};
use dunlin_store::{ChunkKind, Sealing as _};

const OTHER: [u8; 16] = [0x52; 16];
const PLAIN: &[u8] = b"what nobody else may know";

fn open(seal: &ObjectSeal, sealed: &[u8]) -> Result<Vec<u8>, Error> {
    seal.open(&label("name", 3), sealed)
}

fn sealed() -> Vec<u8> {
    key(7).objects().seal(&label("name", 3), PLAIN).unwrap()
}

#[test]
fn what_was_sealed_opens_and_shows_nothing() {
    let sealed = sealed();
    assert_eq!(open(&key(7).objects(), &sealed).unwrap(), PLAIN);
    assert!(!sealed.windows(8).any(|window| PLAIN.windows(8).any(|plain| plain == window)));
    for length in [0, 1, 65_535, 65_536, 65_537, 1_000_000] {
        let plain: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        let sealed = key(7).objects().seal(&label("name", 3), &plain).unwrap();
        assert_eq!(open(&key(7).objects(), &sealed).unwrap(), plain, "{length} bytes");
    }
}

#[test]
fn s01_what_service_x_sealed_is_not_opened_by_y() {
    let foreign = root().epoch_key(OTHER, 7);
    assert!(matches!(open(&foreign.objects(), &sealed()), Err(Error::Seal { part: 0 })), "the same root and epoch");
    let (x, y) = (VolumeSeal::new(&key(7), None), VolumeSeal::new(&foreign, None));
    let chunk = x.seal(ChunkKind::Data, b"volume", PLAIN);
    assert_eq!(&*x.open(ChunkKind::Data, b"volume", chunk.clone()).unwrap(), PLAIN);
    assert!(y.open(ChunkKind::Data, b"volume", chunk.clone()).is_err());
    // Nor does a key of another service help the volume, even if somebody hands it in for an earlier one.
    let confused = VolumeSeal::new(&foreign, Some(&key(7)));
    assert!(confused.open(ChunkKind::Data, b"volume", chunk).is_err());
    let machine = LocalKey::from_bytes(&[4; 32]);
    let waiting = machine.objects(SERVICE).seal(&label("name", 3), PLAIN).unwrap();
    assert!(open(&machine.objects(OTHER), &waiting).is_err());
}

#[test]
fn s02_the_key_of_another_epoch_opens_nothing() {
    for epoch in [0, 6, 8, u64::MAX] {
        let refused = open(&key(epoch).objects(), &sealed());
        assert!(matches!(refused, Err(Error::OtherEpoch { found: 7, key }) if key == epoch));
        // Neither when the header claims to be of that epoch.
        let mut relabelled = sealed();
        relabelled[18..26].copy_from_slice(&epoch.to_le_bytes());
        assert!(matches!(open(&key(epoch).objects(), &relabelled), Err(Error::Seal { .. })));
        let chunk = VolumeSeal::new(&key(7), None).seal(ChunkKind::Data, b"volume", PLAIN).into_owned();
        let other = VolumeSeal::new(&key(epoch), None);
        assert!(other.open(ChunkKind::Data, b"volume", Cow::Owned(chunk.clone())).is_err());
        let mut relabelled = chunk;
        let at = relabelled.len() - 8;
        relabelled[at..].copy_from_slice(&epoch.to_le_bytes());
        assert!(other.open(ChunkKind::Data, b"volume", Cow::Owned(relabelled)).is_err());
    }
}

#[test]
fn s02_a_holder_of_an_earlier_epoch_does_not_read_what_was_written_later_and_a_later_one_reads_all() {
    let first = VolumeSeal::new(&key(1), None);
    let old = first.seal(ChunkKind::Data, b"v", b"written in epoch 1").into_owned();
    let mut roots = vec![first.seal(ChunkKind::Root, b"v", b"root 1").into_owned()];
    let mut chunks = vec![old];
    for epoch in 2..=100 {
        // What the broker releases: the new epoch's key and that of the last commit.
        let seal = VolumeSeal::new(&key(epoch), Some(&key(epoch - 1)));
        let last = roots.last().unwrap().clone();
        let body = format!("root {}", epoch - 1);
        assert_eq!(&*seal.open(ChunkKind::Root, b"v", Cow::Owned(last)).unwrap(), body.as_bytes());
        assert_eq!(seal.epochs(), epoch as usize);
        for chunk in &chunks {
            assert!(seal.open(ChunkKind::Data, b"v", Cow::Borrowed(chunk)).is_ok(), "epoch {epoch}");
        }
        chunks.push(seal.seal(ChunkKind::Data, b"v", format!("written in epoch {epoch}").as_bytes()).into_owned());
        roots.push(seal.seal(ChunkKind::Root, b"v", format!("root {epoch}").as_bytes()).into_owned());
    }
    assert!(first.open(ChunkKind::Data, b"v", Cow::Borrowed(&chunks[0])).is_ok());
    for later in &chunks[1..] {
        assert!(first.open(ChunkKind::Data, b"v", Cow::Borrowed(later)).is_err());
    }
    assert!(first.open(ChunkKind::Root, b"v", Cow::Borrowed(&roots[1])).is_err());
}

#[test]
fn s04_every_bit_of_header_label_and_contents_is_authenticated() {
    let (seal, sealed) = (key(7).objects(), sealed());
    for bit in 0..sealed.len() * 8 {
        let mut changed = sealed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&seal, &changed).is_err(), "bit {bit}");
    }
    let others = [
        Label { kind: Kind::Snapshot, ..label("name", 3) },
        Label { kind: Kind::Value, ..label("name", 3) },
        label("nam", 3),
        label("name ", 3),
        label("name", 2),
        label("name", 4),
    ];
    for other in others {
        assert!(seal.open(&other, &sealed).is_err(), "{other:?}");
        // Also when the header is made to claim what is wanted.
        let mut relabelled = sealed.clone();
        relabelled[17] = other.kind as u8;
        relabelled[26..34].copy_from_slice(&other.version.to_le_bytes());
        assert!(matches!(seal.open(&other, &relabelled), Err(Error::Seal { .. })), "{other:?}");
    }
    let volume = VolumeSeal::new(&key(7), None);
    for kind in [ChunkKind::Data, ChunkKind::Root] {
        let chunk = volume.seal(kind, b"volume", PLAIN).into_owned();
        for bit in 0..chunk.len() * 8 {
            let mut changed = chunk.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(volume.open(kind, b"volume", Cow::Owned(changed)).is_err(), "bit {bit} of {kind:?}");
        }
        assert!(volume.open(ChunkKind::Node, b"volume", Cow::Borrowed(&chunk)).is_err());
        assert!(volume.open(kind, b"volumf", Cow::Borrowed(&chunk)).is_err());
    }
}

#[test]
fn s04_parts_cut_off_repeated_exchanged_or_appended_are_refused() {
    let plain: Vec<u8> = (0..200_000).map(|index| (index / 1000) as u8).collect();
    let seal = key(7).objects();
    let sealed = seal.seal(&label("name", 3), &plain).unwrap();
    let (header, body) = sealed.split_at(66);
    let part = 4 + 65_536 + 16;
    let parts: Vec<&[u8]> = vec![&body[..part], &body[part..2 * part], &body[2 * part..3 * part], &body[3 * part..]];
    let of = |order: &[usize]| {
        let bytes = [header, &order.iter().flat_map(|index| parts[*index].to_vec()).collect::<Vec<_>>()].concat();
        open(&seal, &bytes)
    };
    assert_eq!(of(&[0, 1, 2, 3]).unwrap(), plain);
    assert!(matches!(of(&[0, 1, 2]), Err(Error::Truncated)));
    assert!(matches!(of(&[]), Err(Error::Truncated)));
    assert!(matches!(of(&[1, 0, 2, 3]), Err(Error::Seal { part: 0 })));
    assert!(matches!(of(&[0, 0, 1, 2, 3]), Err(Error::Seal { part: 1 })));
    assert!(matches!(of(&[0, 2, 3]), Err(Error::Seal { part: 1 })));
    assert!(matches!(of(&[0, 1, 2, 3, 3]), Err(Error::Trailing)));
    // A part in the middle cannot be made the end.
    let mut ended = [header, parts[0]].concat();
    ended[66 + 3] |= 0x80;
    assert!(matches!(open(&seal, &ended), Err(Error::Seal { part: 0 })));
    for length in 0..sealed.len().min(300) {
        assert!(open(&seal, &sealed[..length]).is_err(), "cut off at {length}");
    }
    // Parts of another object under the same label do not fit either.
    let twin = seal.seal(&label("name", 3), &plain).unwrap();
    let spliced = [header, parts[0], &twin[66 + part..]].concat();
    assert!(matches!(open(&seal, &spliced), Err(Error::Seal { part: 1 })));
}

#[test]
fn s05_what_waits_on_one_machine_is_not_opened_on_another() {
    let scratch = Scratch::new();
    let one = LocalKey::in_file(&scratch.0.join("one")).unwrap();
    let two = LocalKey::in_file(&scratch.0.join("two")).unwrap();
    let waiting = one.objects(SERVICE).seal(&label("staged", 3), PLAIN).unwrap();
    let again = LocalKey::in_file(&scratch.0.join("one")).unwrap();
    assert_eq!(again.objects(SERVICE).open(&label("staged", 3), &waiting).unwrap(), PLAIN);
    assert!(matches!(two.objects(SERVICE).open(&label("staged", 3), &waiting), Err(Error::Seal { .. })));
    assert!(matches!(key(0).objects().open(&label("staged", 3), &waiting), Err(Error::OtherEpoch { .. })));
    let derived = |secret: &[u8]| LocalKey::derived(secret).objects(SERVICE);
    let waiting = derived(b"platform one").seal(&label("staged", 3), PLAIN).unwrap();
    assert_eq!(derived(b"platform one").open(&label("staged", 3), &waiting).unwrap(), PLAIN);
    assert!(derived(b"platform two").open(&label("staged", 3), &waiting).is_err());
    fs::set_permissions(scratch.0.join("one"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    assert!(matches!(LocalKey::in_file(&scratch.0.join("one")), Err(Error::KeyFile { .. })), "anybody can read it");
}

#[test]
fn s05_what_a_move_puts_on_storage_is_opened_by_its_own_key_alone() {
    let (epoch, migration) = (key(4), [8; 16]);
    let given = StagingKey::from_bytes(SERVICE, 4, epoch.staging(migration).expose());
    let staged = given.objects().seal(&label("staged", 3), PLAIN).unwrap();
    // Whoever gets the key of that epoch, be it years later, can open it.
    assert_eq!(key(4).staging(migration).objects().open(&label("staged", 3), &staged).unwrap(), PLAIN);
    let mut others =
        vec![epoch.objects(), epoch.staging([9; 16]).objects(), LocalKey::from_bytes(&[4; 32]).objects(SERVICE)];
    others.extend([3, 5].map(|epoch| key(epoch).staging(migration).objects()));
    for other in &others {
        assert!(other.open(&label("staged", 3), &staged).is_err(), "{other:?}");
    }
    // And the key that a destination is given opens nothing else of the epoch.
    let committed = epoch.objects().seal(&label("state", 3), PLAIN).unwrap();
    assert!(given.objects().open(&label("state", 3), &committed).is_err());
}

/// Three committed states, and the disk as it was after each.
fn three() -> (Scratch, Register) {
    let scratch = Scratch::new();
    let now = scratch.0.join("now");
    fs::create_dir_all(&now).unwrap();
    let mut register = None;
    for version in 0..3 {
        let state = Disk(&now).write(&key(2), version, &format!("state {version}"));
        match &mut register {
            None => register = Some(Register::new(state)),
            Some(register) => register.commit(state),
        }
        Disk(&now).publish();
        copy(&now, &scratch.0.join(format!("at-{version}")));
    }
    (scratch, register.unwrap())
}

#[test]
fn s06_a_file_a_directory_or_two_files_put_back_are_noticed() {
    let (scratch, mut register) = three();
    let record = register.read().record;
    let read = |path: &std::path::Path| Disk(path).read("checkpoint", &key(2), &record);
    let mixed = |name: &str, checkpoint: u64, volume: u64| {
        let path = scratch.0.join(name);
        copy(&scratch.0.join(format!("at-{volume}")), &path);
        fs::copy(scratch.0.join(format!("at-{checkpoint}/checkpoint")), path.join("checkpoint")).unwrap();
        path
    };
    assert_eq!(read(&scratch.0.join("now")).unwrap(), "state 2");
    assert_eq!(read(&scratch.0.join("at-2")).unwrap(), "state 2", "a copy is as good as what it is a copy of");
    // The whole directory, of any earlier time.
    for earlier in 0..2 {
        let whole = read(&scratch.0.join(format!("at-{earlier}")));
        assert!(matches!(whole, Err(Refused::Sealed(Error::OtherVersion { .. }))), "{whole:?}");
        // One file: the checkpoint.
        let one = read(&mixed(&format!("checkpoint-{earlier}"), earlier, 2));
        assert!(matches!(one, Err(Refused::Sealed(Error::OtherVersion { .. }))), "{one:?}");
        // One part: the volume, whose older chunks are all genuine.
        let other = read(&mixed(&format!("volume-{earlier}"), 2, earlier));
        assert!(matches!(other, Err(Refused::Volume(_))), "{other:?}");
    }
    // Two files to different times.
    assert!(matches!(read(&mixed("both", 0, 1)), Err(Refused::Sealed(Error::OtherVersion { .. }))));
    // The pointer to the volume's root alone does nothing: the root is in the state that the ledger vouches for.
    let pointer = scratch.0.join("pointer");
    copy(&scratch.0.join("now"), &pointer);
    copy(&scratch.0.join("at-0/volume/roots"), &pointer.join("volume/roots"));
    assert_eq!(read(&pointer).unwrap(), "state 2");
}

#[test]
fn s06_one_chunk_in_place_of_another_is_noticed() {
    let (scratch, mut register) = three();
    let record = register.read().record;
    let now = scratch.0.join("now");
    let mut files = Vec::new();
    let mut folders = vec![now.join("volume")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let name = entry.file_name().to_string_lossy().into_owned();
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false if name.len() >= 32 => files.push(entry.path()),
                false => {}
            }
        }
    }
    assert!(files.len() >= 9, "roots, inodes, entries and contents of three states: {files:?}");
    let genuine: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    let mut noticed = 0;
    for (path, own) in files.iter().zip(&genuine) {
        for other in genuine.iter().filter(|other| *other != own) {
            fs::write(path, other).unwrap();
            // A chunk of an earlier state is not read at all; one of this state is, and nothing else may come of it.
            match Disk(&now).read("checkpoint", &key(2), &record) {
                Ok(text) => assert_eq!(text, "state 2"),
                Err(Refused::Volume(_)) => noticed += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        fs::write(path, own).unwrap();
    }
    assert!(noticed >= 4 * (files.len() - 1), "{noticed} exchanges were noticed");
}

#[test]
fn s12_a_crash_between_seal_and_commit_recovers_whichever_side_the_ledger_is_on() {
    let scratch = Scratch::new();
    let disk = Disk(&scratch.0);
    let zero = disk.write(&key(2), 0, "zero");
    disk.publish();
    let mut register = Register::new(zero);
    for committed in [false, true] {
        // Sealed and durable, under the name that the next checkpoint has until the ledger has said yes.
        let one = disk.write(&key(2), 1, "one");
        if committed {
            register.commit(one);
        }
        // Here the process dies. What comes back knows the disk and asks the ledger.
        let nonce = Nonce([9; 32]);
        let Ok(reading) = register.ledger.read(ServiceId(SERVICE), nonce);
        let reading = reading.unwrap();
        let names = ["checkpoint", "checkpoint.new"];
        let blobs = [(0, zero), (1, one)].map(|(version, state_hash)| Blob { version, state_hash, complete: true });
        let platform = TestKey::named("platform").platform();
        let checks = TestChecks::default();
        let Boot::Resume { blob } = decide(&reading, nonce, ledger_key().0, &checks, platform, &blobs).unwrap() else {
            panic!("the service is here and its state as well");
        };
        assert_eq!(blob, usize::from(committed));
        let text = disk.read(names[blob], &key(2), &reading.record).unwrap();
        assert_eq!(text, ["zero", "one"][blob]);
        // The other one is refused: it is of another version.
        let other = disk.read(names[1 - blob], &key(2), &reading.record);
        assert!(matches!(other, Err(Refused::Sealed(Error::OtherVersion { .. }))));
    }
}

#[test]
fn s12_a_sealed_file_that_a_crash_cut_off_is_read_up_to_the_last_flush_only_where_that_is_wanted() {
    use std::io::{Read as _, Write as _};
    let seal = LocalKey::from_bytes(&[4; 32]).objects(SERVICE);
    let mut writer = seal.writer(&label("staged", 1), Vec::new()).unwrap();
    writer.write_all(b"first").unwrap();
    writer.flush().unwrap();
    let flushed = writer.get_ref().len();
    writer.write_all(b"second").unwrap();
    let whole = writer.finish().unwrap();
    for length in flushed..whole.len() {
        let mut strict = Vec::new();
        let mut reader = seal.reader(&label("staged", 1), &whole[..length]).unwrap();
        assert!(reader.read_to_end(&mut strict).is_err(), "cut off at {length}");
        let mut lenient = Vec::new();
        let reader = seal.reader(&label("staged", 1), &whole[..length]).unwrap();
        reader.up_to_a_crash().read_to_end(&mut lenient).unwrap();
        assert_eq!(lenient, b"first", "cut off at {length}");
    }
    let mut changed = whole.clone();
    changed[flushed - 1] ^= 1;
    let mut reader = seal.reader(&label("staged", 1), &changed[..]).unwrap().up_to_a_crash();
    assert!(reader.read_to_end(&mut Vec::new()).is_err(), "changed is not cut off");
}
