//! The sealed store: what is put comes back, and what the disk's keeper does to it is noticed.

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::{Scratch, copy, key};
use dunlin_seal::{Error, SealedValues};

fn open(path: &std::path::Path, epoch: u64) -> Result<SealedValues, Error> {
    SealedValues::open(path, key(epoch).objects())
}

#[test]
fn values_come_back_also_after_a_restart_and_show_nothing() {
    let scratch = Scratch::new();
    let mut model = BTreeMap::new();
    let mut store = open(&scratch.0, 3).unwrap();
    for number in 0..40u32 {
        let name = format!("name of value {}", number % 13);
        let value = format!("value {number} ").repeat(number as usize * 97).into_bytes();
        store.put(&name, &value).unwrap();
        model.insert(name, value);
        if number % 7 == 0 {
            let (digest, generation) = (store.digest(), store.generation());
            store = open(&scratch.0, 3).unwrap();
            assert_eq!((store.digest(), store.generation()), (digest, generation));
        }
    }
    assert!(store.keys().eq(model.keys().map(String::as_str)));
    for (name, value) in &model {
        assert_eq!(store.get(name).unwrap().as_ref(), Some(value));
    }
    assert_eq!(store.get("absent").unwrap(), None);
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), model.len() + 1, "what was replaced is gone");
    for entry in fs::read_dir(&scratch.0).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"value "));
    }
    store.replace([("only", &b"this"[..])]).unwrap();
    assert_eq!(open(&scratch.0, 3).unwrap().keys().collect::<Vec<_>>(), ["only"]);
    assert!(matches!(open(&scratch.0, 4), Err(Error::OtherEpoch { .. })));
}

#[test]
fn s06_values_exchanged_or_put_back_one_by_one_are_noticed_and_all_of_them_change_the_digest() {
    let scratch = Scratch::new();
    let (now, then) = (scratch.0.join("now"), scratch.0.join("then"));
    let mut store = open(&now, 3).unwrap();
    store.put("a", b"old").unwrap();
    store.put("b", b"other").unwrap();
    copy(&now, &then);
    let digest = store.digest();
    store.put("a", b"new").unwrap();
    let names = |path: &std::path::Path| {
        let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.retain(|name| name != "index");
        names
    };
    // Every file in the place of every other one, old ones included.
    let genuine: Vec<Vec<u8>> = [&now, &then]
        .into_iter()
        .flat_map(|path| names(path).into_iter().map(|name| fs::read(path.join(name)).unwrap()))
        .collect();
    for name in names(&now) {
        let own = fs::read(now.join(&name)).unwrap();
        for other in genuine.iter().filter(|other| **other != own) {
            fs::write(now.join(&name), other).unwrap();
            let store = open(&now, 3).unwrap();
            let outcomes = ["a", "b"].map(|key| store.get(key).is_err());
            assert_eq!(outcomes.iter().filter(|refused| **refused).count(), 1);
        }
        fs::write(now.join(&name), own).unwrap();
    }
    // An old index whose files are gone; an old index with its files is an old store, and its digest says so.
    fs::copy(then.join("index"), now.join("index")).unwrap();
    assert!(open(&now, 3).unwrap().get("a").is_err());
    assert_eq!(open(&then, 3).unwrap().digest(), digest);
    assert_ne!(store.digest(), digest);
}
