//! The store in a directory, on a disk that stops at every operation and forgets, sector by sector, what it was not
//! made to keep: it opens as some commit left it, with all its chunks.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::Random;
use common::disk::Disk;
use dunlin_base::Digest;
use dunlin_store::{ChunkStore as _, DirectoryStore, Roots as _, StoreError};

/// Which chunks there have to be for a root: the workload's own record.
type Needs = BTreeMap<Digest, BTreeSet<Digest>>;

/// Puts chunks, points to roots, and drops what the roots do not need. `durable` is what was promised, `next` what a
/// change in progress would make of it.
fn workload(
    store: &DirectoryStore,
    needs: &mut Needs,
    durable: &mut Option<Digest>,
    next: &mut Option<Digest>,
) -> Result<(), StoreError> {
    let mut random = Random::new(3);
    let mut needed: BTreeSet<Digest> = BTreeSet::new();
    for round in 0..10_u64 {
        // Some are large, so that segments are finished on the way.
        let sizes = if round % 3 == 1 { vec![600_000, 500_000, 5000, 0] } else { vec![100, 3000, 17] };
        for size in sizes {
            let bytes: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
            let digest = Digest::of(&bytes);
            store.put(&digest, &bytes)?;
            needed.insert(digest);
            assert_eq!(store.get(&digest)?.as_ref(), Some(&bytes), "what was put can be read at once");
        }
        if round == 5 {
            store.sync()?;
        }
        // Some are no longer needed.
        let dropped: Vec<_> = needed.iter().copied().filter(|_| random.below(3) == 0).collect();
        for digest in &dropped {
            needed.remove(digest);
        }
        let root = Digest::of(&round.to_le_bytes());
        store.put(&root, &round.to_le_bytes())?;
        needed.insert(root);
        needs.insert(root, needed.clone());
        *next = Some(root);
        store.set_root("head", Some(root))?;
        *durable = next.take();
        if round % 2 == 0 {
            store.retain(&needed)?;
        }
    }
    Ok(())
}

fn recovered(disk: &Disk, seed: u64) -> Disk {
    let mut random = Random::new(seed);
    disk.recover(|limit| random.below(limit))
}

fn check(store: &DirectoryStore, root: Option<Digest>, needs: &Needs) {
    let Some(root) = root else { return };
    for digest in &needs[&root] {
        let bytes = store.get(digest).unwrap().unwrap_or_else(|| panic!("chunk {digest} is gone"));
        assert_eq!(Digest::of(&bytes), *digest);
    }
}

#[test]
fn a_stop_at_every_operation_leaves_the_old_or_the_new_root_with_all_its_chunks() {
    let disk = Disk::new(u64::MAX);
    let (mut needs, mut durable, mut next) = (Needs::new(), None, None);
    workload(&DirectoryStore::open_on(Arc::new(disk.clone()), "/s").unwrap(), &mut needs, &mut durable, &mut next)
        .unwrap();
    let total = disk.changes();
    assert!(total > 60, "{total}");
    let (mut old, mut new) = (0, 0);
    for stop in 0..total {
        let disk = Disk::new(stop);
        let (mut needs, mut durable, mut next) = (Needs::new(), None, None);
        if let Ok(store) = DirectoryStore::open_on(Arc::new(disk.clone()), "/s") {
            workload(&store, &mut needs, &mut durable, &mut next).unwrap_err();
            // What is readable stays readable, whatever cannot be written any more.
            check(&store, durable, &needs);
        }
        for seed in 0..4 {
            let after = recovered(&disk, stop * 100 + seed);
            let store = DirectoryStore::open_on(Arc::new(after.clone()), "/s")
                .unwrap_or_else(|error| panic!("stopped at {stop}, seed {seed}: {error:?}"));
            let root = store.root("head").unwrap();
            assert!(root == durable || (next.is_some() && root == next), "stopped at {stop}, seed {seed}");
            *if root == durable { &mut old } else { &mut new } += 1;
            check(&store, root, &needs);
            // And it goes on from there, and keeps that, too.
            let bytes = b"after".to_vec();
            store.put(&Digest::of(&bytes), &bytes).unwrap();
            store.set_root("after", Some(Digest::of(&bytes))).unwrap();
            drop(store);
            let store = DirectoryStore::open_on(Arc::new(recovered(&after, seed)), "/s").unwrap();
            assert_eq!(store.root("after").unwrap(), Some(Digest::of(&bytes)));
            assert_eq!(store.root("head").unwrap(), root);
            check(&store, root, &needs);
        }
    }
    assert!(old > 100 && new > 5, "{old} recoveries found the old root, {new} the new one");
}

#[test]
fn damage_anywhere_is_found_or_does_not_matter() {
    let disk = Disk::new(u64::MAX);
    let store = DirectoryStore::open_on(Arc::new(disk.clone()), "/s").unwrap();
    let mut roots = Vec::new();
    for number in 0..3_u8 {
        let bytes = vec![number; 300];
        store.put(&Digest::of(&bytes), &bytes).unwrap();
        store.set_root("head", Some(Digest::of(&bytes))).unwrap();
        roots.push(Digest::of(&bytes));
    }
    drop(store);
    let len = disk.first_file(|bytes| bytes.len());
    for bit in 0..len * 8 {
        let damaged = recovered(&disk, 0);
        damaged.first_file(|bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        let Ok(store) = DirectoryStore::open_on(Arc::new(damaged), "/s") else { continue };
        // A commit that was really made, or none; never anything else.
        let root = store.root("head").unwrap();
        assert!(root.is_none_or(|root| roots.contains(&root)), "bit {bit}");
        for digest in store.list().unwrap() {
            let bytes = store.get(&digest).unwrap().unwrap();
            // Damage in a chunk before the last commits is found when it is read.
            assert!(Digest::of(&bytes) == digest || bit / 8 < len - 300, "bit {bit}");
        }
    }
    for cut in 0..len {
        let short = recovered(&disk, 0);
        short.first_file(|bytes| bytes.truncate(cut));
        if let Ok(store) = DirectoryStore::open_on(Arc::new(short), "/s") {
            let root = store.root("head").unwrap();
            assert!(root.is_none_or(|root| store.contains(&root).unwrap()), "cut to {cut}");
        }
    }
}

#[test]
fn room_is_given_back() {
    let disk = Disk::new(u64::MAX);
    let store = DirectoryStore::open_on(Arc::new(disk.clone()), "/s").unwrap();
    let mut random = Random::new(1);
    let mut needed = BTreeSet::new();
    for number in 0..200_u64 {
        let bytes: Vec<u8> = (0..64 << 10).map(|_| random.next() as u8).collect();
        store.put(&Digest::of(&bytes), &bytes).unwrap();
        if number % 50 == 0 {
            needed.insert(Digest::of(&bytes));
        }
    }
    store.set_root("head", needed.first().copied()).unwrap();
    let before = store.stored_bytes();
    assert!(before > 12 << 20);
    assert_eq!(store.retain(&needed).unwrap(), 196);
    assert!(store.stored_bytes() < 1 << 20, "{}", store.stored_bytes());
    drop(store);
    let store = DirectoryStore::open_on(Arc::new(disk), "/s").unwrap();
    assert!(store.stored_bytes() < 1 << 20);
    let found: BTreeSet<_> = store.list().unwrap().into_iter().collect();
    assert_eq!(found, needed);
    assert_eq!(store.root("head").unwrap(), needed.first().copied());
}
