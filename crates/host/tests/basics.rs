//! Arguments, environment, clocks, random numbers, exit: each function alone and across a move.

mod support;

use dunlin_engine::Flow;
use dunlin_host::{Config, Error, Source, World, kind};
use support::*;

fn list(guest: &mut Guest, sizes: &str, get: &str) -> Vec<String> {
    use support::IntoValue as _;
    assert_eq!(guest.errno(sizes, &[RESULT.value(), (RESULT + 4).value()]), SUCCESS);
    let (count, bytes) = (guest.u32_at(RESULT), guest.u32_at(RESULT + 4));
    assert_eq!(guest.errno(get, &[TEXT.value(), BUFFER.value()]), SUCCESS);
    let texts: Vec<String> = (0..count)
        .map(|at| {
            let start = guest.u32_at((TEXT + at * 4) as i32);
            let text = &guest.memory[start as usize..];
            let end = text.iter().position(|byte| *byte == 0).unwrap();
            String::from_utf8(text[..end].to_vec()).unwrap()
        })
        .collect();
    assert_eq!(texts.iter().map(|text| text.len() + 1).sum::<usize>(), bytes as usize);
    texts
}

#[test]
fn arguments_and_environment_are_given_and_move() {
    let config = Config::new().args(["tool", "", "größe"]).env("A", "1").env("B", "x=y");
    let mut guest = Guest::new(config);
    for _ in 0..2 {
        assert_eq!(list(&mut guest, "args_sizes_get", "args_get"), ["tool", "", "größe"]);
        assert_eq!(list(&mut guest, "environ_sizes_get", "environ_get"), ["A=1", "B=x=y"]);
        guest = guest.moved(Config::new().arg("other").env("A", "2"));
    }
    assert_eq!(call!(guest, args_get, 128 * 1024 - 4, BUFFER), FAULT);
    assert_eq!(call!(guest, args_get, TEXT, 128 * 1024 - 3), FAULT);
    assert_eq!(call!(guest, environ_get, -1, BUFFER), FAULT);
    assert_eq!(call!(guest, args_sizes_get, RESULT, -1), FAULT);
    assert_eq!(call!(guest, environ_sizes_get, -2, RESULT), FAULT);
}

#[test]
fn a_zero_byte_in_an_argument_is_refused() {
    assert!(matches!(World::new(Config::new().arg("a\0b")), Err(Error::ZeroByte { .. })));
    assert!(matches!(World::new(Config::new().env("a", "b\0")), Err(Error::ZeroByte { .. })));
}

fn time(guest: &mut Guest, clock: i32) -> u64 {
    assert_eq!(call!(guest, clock_time_get, clock, 0_u64, RESULT), SUCCESS);
    guest.u64_at(RESULT)
}

#[test]
fn monotonic_time_continues_and_does_not_pass_in_transit() {
    let mut guest = Guest::new(Config::new());
    let first = time(&mut guest, 1);
    std::thread::sleep(std::time::Duration::from_millis(5));
    let before = time(&mut guest, 1);
    assert!(before >= first + 5_000_000);
    let sections = guest.world.freeze().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let mut moved = Guest { world: thaw(&sections, Config::new()), memory: guest.memory.clone() };
    let after = time(&mut moved, 1);
    assert!(after >= before, "{after} is before {before}");
    assert!(after < before + 250_000_000, "the transit passed on the clock");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let real = time(&mut moved, 0);
    assert!(real.abs_diff(now) < 1_000_000_000, "real time is the host's");
}

#[test]
fn clock_numbers_are_checked() {
    let mut guest = Guest::new(Config::new());
    assert_eq!(call!(guest, clock_res_get, 0, RESULT), SUCCESS);
    assert!((1..1_000_000).contains(&guest.u64_at(RESULT)));
    assert_eq!(call!(guest, clock_res_get, 1, RESULT), SUCCESS);
    assert_eq!(call!(guest, clock_res_get, 2, RESULT), BADF);
    assert_eq!(call!(guest, clock_time_get, 3, 0_u64, RESULT), BADF);
    assert_eq!(call!(guest, clock_time_get, 4, 0_u64, RESULT), INVAL);
    assert_eq!(call!(guest, clock_time_get, 1, 0_u64, -8), FAULT);
}

fn random(guest: &mut Guest, len: u32) -> Vec<u8> {
    assert_eq!(call!(guest, random_get, BUFFER, len), SUCCESS);
    guest.bytes(BUFFER, len as usize).to_vec()
}

#[test]
fn random_numbers_never_repeat_after_a_move() {
    let mut guest = Guest::new(Config::new());
    let before = random(&mut guest, 64);
    let sections = guest.world.freeze().unwrap();
    let continued = random(&mut guest, 64);
    let moved = || {
        let mut moved = Guest { world: thaw(&sections, Config::new()), memory: vec![0; 128 * 1024] };
        random(&mut moved, 64)
    };
    let (one, other) = (moved(), moved());
    for (at, stream) in [&before, &continued, &one, &other].iter().enumerate() {
        assert!(stream.iter().any(|byte| *byte != 0));
        for later in [&before, &continued, &one, &other].iter().skip(at + 1) {
            assert_ne!(stream, later);
        }
    }
    assert_eq!(call!(guest, random_get, BUFFER, u32::MAX), FAULT);
}

#[test]
fn the_key_is_not_in_a_snapshot_but_a_carry_is() {
    let section = |guest: &mut Guest| {
        let sections = guest.world.freeze().unwrap();
        sections.into_iter().find(|section| section.kind == kind::RANDOM).unwrap().bytes
    };
    let (mut one, mut other) = (Guest::new(Config::new()), Guest::new(Config::new()));
    let bytes = section(&mut one);
    assert_eq!(bytes.len(), 33);
    assert_ne!(bytes, section(&mut other), "each stream has its own");
    assert_eq!(bytes, section(&mut one), "freezing does not change it");
}

#[test]
fn deterministic_worlds_run_alike_moved_or_not() {
    let config = || Config::new().source(Source::Deterministic { seed: 7 });
    let run = |moves: bool| {
        let mut guest = Guest::new(config());
        let mut seen = Vec::new();
        for len in 1..20 {
            seen.push(random(&mut guest, len));
            seen.push(time(&mut guest, 0).to_le_bytes().to_vec());
            seen.push(time(&mut guest, 1).to_le_bytes().to_vec());
            if moves {
                guest = guest.moved(config());
            }
        }
        seen
    };
    assert_eq!(run(false), run(true));
    let mut other = Guest::new(Config::new().source(Source::Deterministic { seed: 8 }));
    assert_ne!(random(&mut other, 16), random(&mut Guest::new(config()), 16));
    assert!(other.world.is_deterministic());
}

#[test]
fn a_snapshot_cannot_choose_insecure_random_numbers() {
    let deterministic = || Config::new().source(Source::Deterministic { seed: 1 });
    let insecure = World::new(deterministic()).unwrap().freeze().unwrap();
    assert!(matches!(World::thaw(&insecure, Config::new()), Err(Error::OtherSource { .. })));
    let secure = World::new(Config::new()).unwrap().freeze().unwrap();
    assert!(matches!(World::thaw(&secure, deterministic()), Err(Error::OtherSource { .. })));
}

#[test]
fn programs_end() {
    let mut guest = Guest::new(Config::new());
    assert_eq!(flow!(guest, proc_exit, 0), Flow::Exit(0));
    assert_eq!(flow!(guest, proc_exit, 125), Flow::Exit(125));
    assert!(matches!(flow!(guest, proc_exit, 126), Flow::Trap(_)));
    assert!(matches!(flow!(guest, proc_exit, -1), Flow::Trap(_)));
    assert_eq!(call!(guest, proc_raise, 0), SUCCESS);
    assert_eq!(call!(guest, proc_raise, 16), SUCCESS, "a child's end is ignored");
    assert_eq!(call!(guest, proc_raise, 18), NOTSUP);
    assert_eq!(call!(guest, proc_raise, 31), INVAL);
    assert_eq!(flow!(guest, proc_raise, 6), Flow::Trap("the program raised signal 6 (abrt)".to_owned()));
    assert_eq!(call!(guest, sched_yield), SUCCESS);
}
