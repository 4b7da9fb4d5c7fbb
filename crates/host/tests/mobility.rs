//! Programs that move themselves.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use dunlin_base::Value;
use dunlin_base::ValueType::{I32, I64};
use dunlin_engine::{Flow, Host as _};
use dunlin_host::{Config, MOBILITY_MODULE, Mobility, Mount, Wish, World, kind};

#[derive(Debug, Default)]
struct Mover(Mutex<Vec<(String, Wish)>>);

impl Mobility for Mover {
    fn here(&self) -> String {
        "north".to_owned()
    }

    fn wish(&self, destination: &str, weakly: bool) -> io::Result<Wish> {
        let wish = Wish::new()?;
        let destination = if weakly { format!("{destination}, weakly") } else { destination.to_owned() };
        self.0.lock().unwrap().push((destination, wish.clone()));
        Ok(wish)
    }
}

impl Mover {
    fn last(&self) -> Wish {
        self.0.lock().unwrap().last().unwrap().1.clone()
    }
}

fn call(world: &mut World, name: &str, memory: &mut [u8], args: &[i32]) -> Result<i32, Flow> {
    let number = world.resolve(MOBILITY_MODULE, name, &vec![I32; args.len()], &[I32]).unwrap();
    let args: Vec<Value> = args.iter().map(|arg| Value::I32(*arg)).collect();
    let mut results = [Value::I32(0)];
    match world.call(number, memory, &args, &mut results) {
        Flow::Return => match results {
            [Value::I32(errno)] => Ok(errno),
            other => panic!("{other:?}"),
        },
        flow => Err(flow),
    }
}

fn moving() -> (World, Arc<Mover>) {
    let mover = Arc::new(Mover::default());
    (World::new(Config::new().mobility(mover.clone())).unwrap(), mover)
}

#[test]
fn only_the_right_types_resolve() {
    let world = World::new(Config::new()).unwrap();
    assert!(world.resolve(MOBILITY_MODULE, "migrate", &[I32; 2], &[I32]).is_some());
    assert_eq!(world.resolve(MOBILITY_MODULE, "migrate", &[I32; 3], &[I32]), None);
    assert_eq!(world.resolve(MOBILITY_MODULE, "migrate", &[I32; 2], &[]), None);
    assert_eq!(world.resolve(MOBILITY_MODULE, "teleport", &[I32; 2], &[I32]), None);
}

#[test]
fn where_nothing_moves_the_program_is_told() {
    let mut world = World::new(Config::new()).unwrap();
    let mut memory = *b"south...";
    assert_eq!(call(&mut world, "migrate", &mut memory, &[0, 5]), Ok(58));
    assert_eq!(call(&mut world, "where-am-i", &mut memory, &[0, 4, 4]), Ok(0));
    assert_eq!(memory[4..], [0; 4]);
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let (mut world, mover) = moving();
    let mut memory = [0xff; 64];
    for (args, errno) in [([0, 0], 28), ([0, 257], 28), ([60, 5], 21), ([-1, 5], 21), ([0, 5], 25)] {
        assert_eq!(call(&mut world, "migrate", &mut memory, &args), Ok(errno), "{args:?}");
    }
    assert_eq!(call(&mut world, "where-am-i", &mut memory, &[62, 5, 0]), Ok(21));
    assert_eq!(call(&mut world, "where-am-i", &mut memory, &[0, 5, 62]), Ok(21));
    assert!(mover.0.lock().unwrap().is_empty());
}

#[test]
fn the_name_of_the_place_is_cut_to_the_buffer() {
    let (mut world, _) = moving();
    let mut memory = [b'.'; 12];
    assert_eq!(call(&mut world, "where-am-i", &mut memory, &[0, 3, 8]), Ok(0));
    assert_eq!(&memory, b"nor.....\x05\0\0\0");
}

#[test]
fn a_refused_wish_ends_the_call() {
    let (mut world, mover) = moving();
    let refuser = mover.clone();
    let thread = thread::spawn(move || {
        while refuser.0.lock().unwrap().is_empty() {
            thread::sleep(Duration::from_millis(1));
        }
        refuser.last().refuse("no such node");
    });
    let mut memory = *b"south";
    assert_eq!(call(&mut world, "migrate", &mut memory, &[0, 5]), Ok(23));
    thread.join().unwrap();
    assert_eq!(mover.0.lock().unwrap()[0].0, "south");
}

#[test]
fn the_call_returns_where_the_wished_move_leads_and_wishes_again_elsewhere() {
    let (mut world, mover) = moving();
    let mut memory = *b"south";
    world.interrupter()();
    assert_eq!(call(&mut world, "migrate", &mut memory, &[0, 5]), Err(Flow::Reissue));
    // A checkpoint: nothing of the wish is in it.
    let checkpoint = world.freeze().unwrap();
    assert!(checkpoint.iter().all(|section| section.kind != kind::MOBILITY));
    mover.last().leaves(true);
    let left = world.freeze().unwrap();
    assert!(left.iter().any(|section| section.kind == kind::MOBILITY && section.mandatory));
    for (sections, expected) in [(left, Ok(0)), (checkpoint, Err(Flow::Reissue))] {
        let there = Arc::new(Mover::default());
        let mut world = World::thaw(&sections, Config::new().mobility(there.clone())).unwrap();
        world.interrupter()();
        assert_eq!(call(&mut world, "migrate", &mut memory, &[0, 5]), expected);
        assert_eq!(there.0.lock().unwrap().len(), usize::from(expected != Ok(0)));
    }
}

#[test]
fn a_successor_finds_the_luggage_and_nothing_that_its_predecessor_opened() {
    let dir = std::env::temp_dir().join(format!("dunlin-successor-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let mover = Arc::new(Mover::default());
    let mount = || Mount { host: dir.clone(), guest: "/d".to_owned(), writable: true };
    let config = || Config::new().mobility(mover.clone()).mount(mount());
    let mut world = World::new(config()).unwrap();
    let mut memory = b"south: three things".to_vec();
    memory.resize(64, 0);
    // A file of its own.
    let path_open = world
        .resolve("wasi_snapshot_preview1", "path_open", &[I32, I32, I32, I32, I32, I64, I64, I32, I32], &[I32])
        .unwrap();
    let args = [3, 0, 0, 5, 1].map(Value::I32);
    let args = args.into_iter().chain([Value::I64(0x1f), Value::I64(0x1f), Value::I32(0), Value::I32(52)]);
    let mut results = [Value::I32(-1)];
    assert!(matches!(world.call(path_open, &mut memory, &args.collect::<Vec<_>>(), &mut results), Flow::Return));
    assert_eq!((results[0], memory[52]), (Value::I32(0), 4));
    assert_eq!(call(&mut world, "luggage", &mut memory, &[20, 8, 48]), Ok(44), "it was not sent by anybody");
    assert!(world.freeze_for_successor().is_err());
    world.interrupter()();
    assert!(matches!(call(&mut world, "migrate-weakly", &mut memory, &[0, 5, 7, 12]), Err(Flow::Reissue)));
    assert_eq!(mover.0.lock().unwrap()[0].0, "south, weakly");
    assert!(world.freeze_for_successor().is_err(), "no move fulfils it yet");
    mover.last().leaves(true);
    let sections = world.freeze_for_successor().unwrap();
    // As the first version wrote it: a length, and the bytes.
    let packed = sections.iter().find(|section| section.kind == kind::LUGGAGE).unwrap();
    assert_eq!((packed.version, &packed.bytes[..]), (1, &b"\x0c\0\0\0\0\0\0\0three things"[..]));
    // The predecessor is as it was, should the move fail: it has its file, and hears of the failure.
    assert!(world.freeze().unwrap().iter().all(|section| section.kind != kind::LUGGAGE));
    mover.last().leaves(false);
    mover.last().refuse("no");
    world.clear_interrupt();
    assert_eq!(call(&mut world, "migrate-weakly", &mut memory, &[0, 5, 7, 12]), Ok(23));
    // The successor.
    let mut successor = World::thaw(&sections, config()).unwrap();
    let fd_close = |world: &mut World, memory: &mut [u8]| {
        let number = world.resolve("wasi_snapshot_preview1", "fd_close", &[I32], &[I32]).unwrap();
        let mut results = [Value::I32(-1)];
        assert!(matches!(world.call(number, memory, &[Value::I32(4)], &mut results), Flow::Return));
        results[0]
    };
    assert_eq!(fd_close(&mut successor, &mut memory), Value::I32(8), "nothing is open there");
    assert_eq!(fd_close(&mut world, &mut memory), Value::I32(0));
    assert_eq!(call(&mut successor, "luggage", &mut memory, &[20, 8, 48]), Ok(0));
    assert_eq!(
        (&memory[20..29], memory[48]),
        (&b"three th\0"[..], 12),
        "as far as there is room, and the whole length"
    );
    // It stays with it, wherever it goes as it is.
    let again = successor.freeze().unwrap();
    assert!(again.iter().any(|section| section.kind == kind::LUGGAGE && section.mandatory));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn what_is_too_much_to_take_along_is_refused() {
    let (mut world, mover) = moving();
    let mut memory = vec![b'x'; 2 << 20];
    assert_eq!(call(&mut world, "migrate-weakly", &mut memory, &[0, 5, 0, (1 << 20) + 1]), Ok(1));
    assert_eq!(call(&mut world, "migrate-weakly", &mut memory, &[0, 5, (2 << 20) - 1, 2]), Ok(21));
    assert_eq!(call(&mut world, "migrate-weakly", &mut memory, &[0, 0, 0, 2]), Ok(28));
    assert!(mover.0.lock().unwrap().is_empty());
    let mut nowhere = World::new(Config::new()).unwrap();
    assert_eq!(call(&mut nowhere, "migrate-weakly", &mut memory, &[0, 5, 0, 3]), Ok(58));
}
