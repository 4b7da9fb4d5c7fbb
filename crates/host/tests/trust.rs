//! Trusted surroundings as a program sees them: each call, the limits of each, and moves in the middle of them.

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use dunlin_base::Value::{self, I32, I64};
use dunlin_base::ValueType;
use dunlin_engine::{Flow, Host as _};
use dunlin_host::trust::{MAX_SLICE, MODULE, Trust, TrustError, functions};
use dunlin_host::{Config, Error, World, kind};
use dunlin_snapshot::HostSection;
use support::*;

const ACCES: i32 = 2;
const IO: i32 = 29;

/// Surroundings that keep values in memory and answer everything else in a way that can be told.
#[derive(Debug, Default)]
struct Around {
    values: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Trust for Around {
    fn attest(&self, challenge: &[u8; 32]) -> Result<Vec<u8>, TrustError> {
        Ok([b"evidence for ".as_slice(), challenge].concat())
    }

    fn authenticate(&self, name: &str) -> Result<Vec<u8>, TrustError> {
        match name {
            "tls-key" => Ok(b"a secret".to_vec()),
            "denied" => Err(TrustError::Denied("not the holder".to_owned())),
            "broken" => Err(TrustError::Failed("the broker is away".to_owned())),
            _ => Err(TrustError::NotFound),
        }
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, TrustError> {
        self.values.lock().unwrap().get(key).cloned().ok_or(TrustError::NotFound)
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<(), TrustError> {
        self.values.lock().unwrap().insert(key.to_owned(), value.to_vec());
        Ok(())
    }

    fn keys(&self) -> Result<Vec<String>, TrustError> {
        Ok(self.values.lock().unwrap().keys().cloned().collect())
    }

    fn replace(&self, values: &[(String, Vec<u8>)]) -> Result<(), TrustError> {
        *self.values.lock().unwrap() = values.iter().cloned().collect();
        Ok(())
    }

    fn run(&self, module: &str, configuration: &[u8]) -> Result<Vec<u8>, TrustError> {
        if module == "shout" { Ok(configuration.to_ascii_uppercase()) } else { Err(TrustError::NotFound) }
    }
}

struct Program {
    world: World,
    memory: Vec<u8>,
    /// Whether it moves to another host after every call.
    moves: bool,
}

const KEY: u32 = 0x1_0000;
const DATA: u32 = 0x2_0000;
const HANDLE: u32 = 0x100;
const LENGTH: u32 = 0x108;
const COUNT: u32 = 0x110;

fn config() -> Config {
    Config::new().trust(Arc::new(Around::default()))
}

impl Program {
    fn new(moves: bool) -> Self {
        let memory = vec![0; DATA as usize + MAX_SLICE + 64];
        Self { world: World::new(config()).unwrap(), memory, moves }
    }

    fn call(&mut self, name: &str, args: &[Value]) -> i32 {
        let params: Vec<ValueType> = functions().find(|(known, _)| *known == name).unwrap().1.to_vec();
        let number = self.world.resolve(MODULE, name, &params, &[ValueType::I32]).unwrap();
        let mut results = [I32(-1)];
        assert_eq!(self.world.call(number, &mut self.memory, args, &mut results), Flow::Return, "{name}");
        if self.moves {
            let sections = self.world.freeze().unwrap();
            self.world = World::thaw(&sections, config()).unwrap();
            // Clocks and random numbers go on; what belongs to the surroundings is the same.
            let trust = |sections: Vec<HostSection>| sections.into_iter().find(|section| section.kind == kind::TRUST);
            assert!(trust(self.world.freeze().unwrap()) == trust(sections), "what was thawed freezes to the same");
        }
        let [I32(errno)] = results else { panic!("an error number") };
        errno
    }

    fn key(&mut self, key: &str) -> [Value; 2] {
        self.memory[KEY as usize..KEY as usize + key.len()].copy_from_slice(key.as_bytes());
        [at(KEY), at(key.len() as u32)]
    }

    fn data(&mut self, bytes: &[u8]) -> [Value; 2] {
        self.memory[DATA as usize..DATA as usize + bytes.len()].copy_from_slice(bytes);
        [at(DATA), at(bytes.len() as u32)]
    }

    fn u32(&self, at: u32) -> u32 {
        u32::from_le_bytes(self.memory[at as usize..at as usize + 4].try_into().unwrap())
    }

    /// Reads a result in slices, and disposes of it.
    fn result(&mut self) -> Vec<u8> {
        let handle = self.u32(HANDLE);
        let length = u64::from_le_bytes(self.memory[LENGTH as usize..LENGTH as usize + 8].try_into().unwrap());
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < length {
            let args = [at(handle), I64(bytes.len() as i64), at(DATA), at(MAX_SLICE as u32 + 32), at(COUNT)];
            assert_eq!(self.call("read", &args), SUCCESS);
            let count = self.u32(COUNT) as usize;
            assert!(count > 0 && count <= MAX_SLICE);
            bytes.extend_from_slice(&self.memory[DATA as usize..DATA as usize + count]);
        }
        assert_eq!(self.call("dispose", &[at(handle)]), SUCCESS);
        assert_eq!(self.call("dispose", &[at(handle)]), BADF);
        bytes
    }

    fn ask(&mut self, name: &str, args: &[Value]) -> Result<Vec<u8>, i32> {
        match self.call(name, &[args, &[at(HANDLE), at(LENGTH)]].concat()) {
            SUCCESS => Ok(self.result()),
            errno => Err(errno),
        }
    }

    fn put(&mut self, key: &str, value: &[u8]) -> i32 {
        let mut slices = value.chunks(MAX_SLICE).peekable();
        loop {
            let slice = slices.next().unwrap_or_default();
            let more = i32::from(slices.peek().is_some());
            let args = [&self.key(key)[..], &self.data(slice), &[I32(more)]].concat();
            let errno = self.call("put", &args);
            if errno != SUCCESS || more == 0 {
                return errno;
            }
        }
    }

    fn get(&mut self, key: &str) -> Result<Vec<u8>, i32> {
        let args = self.key(key);
        self.ask("get", &args)
    }

    fn keys(&mut self) -> Vec<String> {
        let list = self.ask("getkeys", &[]).unwrap();
        let (mut rest, mut keys) = (&list[..], Vec::new());
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let (key, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
            keys.push(String::from_utf8(key.to_vec()).unwrap());
            rest = behind;
        }
        keys
    }
}

fn at(place: u32) -> Value {
    I32(place.cast_signed())
}

/// Everything once; what the program saw.
fn story(moves: bool) -> Vec<Result<Vec<u8>, i32>> {
    let mut program = Program::new(moves);
    let large: Vec<u8> = (0..2 * MAX_SLICE + 1000).map(|index| (index / 7) as u8).collect();
    let mut seen = Vec::new();
    let challenge = program.data(&[7; 32])[0];
    seen.push(program.ask("attest", &[challenge]));
    for name in ["tls-key", "denied", "broken", "absent"] {
        let args = program.key(name);
        seen.push(program.ask("authenticate", &args));
    }
    for (key, value) in [("b", &b"two"[..]), ("a", b"one"), ("large", &large), ("empty", b""), ("a", b"ONE")] {
        assert_eq!(program.put(key, value), SUCCESS);
    }
    for key in ["a", "b", "large", "empty", "absent"] {
        seen.push(program.get(key));
    }
    seen.push(Ok(program.keys().join(",").into_bytes()));
    for module in ["shout", "absent"] {
        let args = [program.key(module), program.data(b"configuration")].concat();
        seen.push(program.ask("run", &args));
    }
    seen
}

#[test]
fn every_call_does_what_it_says_and_a_move_after_each_changes_nothing() {
    let large: Vec<u8> = (0..2 * MAX_SLICE + 1000).map(|index| (index / 7) as u8).collect();
    let still = story(false);
    let expected = [
        Ok([b"evidence for ".as_slice(), &[7; 32]].concat()),
        Ok(b"a secret".to_vec()),
        Err(ACCES),
        Err(IO),
        Err(NOENT),
        Ok(b"ONE".to_vec()),
        Ok(b"two".to_vec()),
        Ok(large),
        Ok(Vec::new()),
        Err(NOENT),
        Ok(b"a,b,empty,large".to_vec()),
        Ok(b"CONFIGURATION".to_vec()),
        Err(NOENT),
    ];
    assert!(still == expected, "another result than expected");
    assert!(story(true) == still, "a move changes what the program sees");
}

#[test]
fn sixty_four_programs_use_one_host_at_once() {
    let shared = Arc::new(Around::default());
    std::thread::scope(|scope| {
        for number in 0..64 {
            let shared = shared.clone();
            scope.spawn(move || {
                let mut program = Program::new(false);
                program.world = World::new(Config::new().trust(shared)).unwrap();
                let challenge = program.data(&[number; 32])[0];
                for round in 0..20u8 {
                    let evidence = program.ask("attest", &[challenge]).unwrap();
                    assert_eq!(evidence.last(), Some(&number));
                    let key = format!("of-{number}");
                    assert_eq!(program.put(&key, &[number, round]), SUCCESS);
                    assert_eq!(program.get(&key), Ok(vec![number, round]));
                    program.data(&[number; 32]);
                }
            });
        }
    });
    assert_eq!(shared.keys().unwrap().len(), 64);
}

#[test]
fn pointers_lengths_and_handles_that_cannot_be_are_refused_and_nothing_happens() {
    let mut program = Program::new(false);
    let end = program.memory.len() as u32;
    let key = program.key("key");
    assert_eq!(program.call("attest", &[at(end - 31), at(HANDLE), at(LENGTH)]), FAULT);
    for places in [[at(end - 3), at(LENGTH)], [at(HANDLE), at(end - 7)], [I32(-1), I32(-1)]] {
        assert_eq!(program.call("attest", &[&[at(DATA)][..], &places].concat()), FAULT);
        assert_eq!(program.call("authenticate", &[&key[..], &places].concat()), FAULT);
        assert_eq!(program.call("get", &[&key[..], &places].concat()), FAULT);
        assert_eq!(program.call("getkeys", &places), FAULT);
        assert_eq!(program.call("run", &[&key[..], &key, &places].concat()), FAULT);
    }
    assert_eq!(program.call("read", &[at(0), I64(0), at(DATA), at(1), at(COUNT)]), BADF, "no result was kept");
    let put = |program: &mut Program, key: [Value; 2], data: [Value; 2], more: i32| {
        program.call("put", &[&key[..], &data, &[I32(more)]].concat())
    };
    assert_eq!(put(&mut program, key, [at(end - 1), at(2)], 0), FAULT);
    assert_eq!(put(&mut program, key, [at(DATA), at(MAX_SLICE as u32 + 1)], 0), FBIG);
    assert_eq!(put(&mut program, key, [at(DATA), at(1)], 2), INVAL);
    assert_eq!(put(&mut program, [at(KEY), at(0)], [at(DATA), at(1)], 0), INVAL);
    assert_eq!(put(&mut program, [at(KEY), at(257)], [at(DATA), at(1)], 0), NAMETOOLONG);
    program.memory[KEY as usize] = 0xff;
    assert_eq!(put(&mut program, key, [at(DATA), at(1)], 0), ILSEQ);
    assert_eq!(program.keys(), Vec::<String>::new());
    // A value that was begun and given up for another one.
    let one = program.key("one");
    assert_eq!(put(&mut program, one, [at(DATA), at(5)], 1), SUCCESS);
    assert_eq!(program.put("two", b"2"), SUCCESS);
    assert_eq!(program.put("one", b"1"), SUCCESS);
    assert_eq!(program.get("one"), Ok(b"1".to_vec()));
    // Results are limited, and a slice behind the end is empty.
    let two = program.key("two");
    let get = [&two[..], &[at(HANDLE), at(LENGTH)]].concat();
    for handle in 0..256 {
        assert_eq!(program.call("get", &get), SUCCESS);
        assert_eq!(program.u32(HANDLE), handle);
    }
    assert_eq!(program.call("get", &get), MFILE);
    for offset in [1, i64::MAX, -1] {
        assert_eq!(program.call("read", &[at(3), I64(offset), at(DATA), at(9), at(COUNT)]), SUCCESS);
        assert_eq!(program.u32(COUNT), 0);
    }
    assert_eq!(program.call("dispose", &[at(7)]), SUCCESS);
    assert_eq!(program.call("get", &get), SUCCESS);
    assert_eq!(program.u32(HANDLE), 7, "the lowest free one");
}

#[test]
fn a_host_without_trusted_surroundings_says_so_and_takes_no_program_that_has_them() {
    let mut program = Program::new(false);
    assert_eq!(program.put("key", b"value"), SUCCESS);
    let sections = program.world.freeze().unwrap();
    assert!(sections.iter().any(|section| section.kind == kind::TRUST && section.mandatory));
    assert!(matches!(World::thaw(&sections, Config::new()), Err(Error::NoTrust)));
    program.world = World::new(Config::new()).unwrap();
    assert_eq!(program.put("key", b"value"), NOTSUP);
    assert_eq!(program.get("key"), Err(NOTSUP));
    assert!(program.world.freeze().unwrap().iter().all(|section| section.kind != kind::TRUST));
}

#[test]
fn the_interface_for_components_has_the_same_functions() {
    let wit = include_str!("../wit/trust.wit");
    for (name, _) in functions() {
        let function = format!("{name}: func(");
        let of_resource = ["read", "dispose"].contains(&name);
        // A resource is disposed of by dropping it.
        assert!(wit.contains(&function) || (of_resource && name == "dispose"), "{name}");
    }
    let declared = wit.matches(": func(").count();
    assert_eq!(declared, functions().len() - 1 + 1, "all but dispose, and the length of an output");
}

#[test]
fn names_and_types_are_those_of_the_table() {
    let world = World::new(config()).unwrap();
    let i32 = ValueType::I32;
    assert!(world.resolve(MODULE, "attest", &[i32; 3], &[i32]).is_some());
    assert!(world.resolve(MODULE, "attest", &[i32; 2], &[i32]).is_none());
    assert!(world.resolve(MODULE, "attest", &[i32; 3], &[]).is_none());
    assert!(world.resolve(MODULE, "fd_close", &[i32], &[i32]).is_none());
    assert!(world.resolve("wasi_snapshot_preview1", "attest", &[i32; 3], &[i32]).is_none());
}
