//! Memory that is watched and moved while the program runs.
#![allow(missing_docs, reason = "a test program")]
#![allow(unsafe_code, reason = "asks the kernel what it has")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::engine;
use dunlin_base::{PAGE_SIZE, Value, ValueType};
use dunlin_engine::{Code, Engine, Flow, Host, Instance, Lazy, Limits, Method, Outcome, Prepared, Tier, Tracker};
use dunlin_instrument::{Options, Poll, Variant, instrument};

/// Dirties `touch` pages of `pages`, or lets the host write, or grows, until the host says that it is enough; then
/// returns a checksum of its memory.
const GUEST: &str = r#"(module
    (import "env" "round" (func $round (param i32) (result i32)))
    (import "env" "fill" (func $fill (param i32 i32)))
    (memory (export "memory") 16 120)
    (data (i32.const 70000) "data that a fresh instance has")
    (func (export "run") (param $pages i32) (result i64)
        (local $i i32) (local $n i32) (local $sum i64)
        (if (i32.lt_u (memory.size) (i32.add (i32.div_u (local.get $pages) (i32.const 16)) (i32.const 2)))
            (then (drop (memory.grow (i32.sub (i32.add (i32.div_u (local.get $pages) (i32.const 16)) (i32.const 2)) (memory.size))))))
        (block $out (loop $again
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (local.set $i (i32.const 0))
            (loop $page
                (i32.store (i32.add (i32.mul (local.get $i) (i32.const 4096)) (i32.const 128))
                    (i32.add (i32.load (i32.add (i32.mul (local.get $i) (i32.const 4096)) (i32.const 128))) (local.get $n)))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $page (i32.lt_u (local.get $i) (local.get $pages))))
            (if (i32.eqz (i32.rem_u (local.get $n) (i32.const 7))) (then (drop (memory.grow (i32.const 1)))
                (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 16)) (local.get $n))))
            (call $fill (i32.const 8192) (i32.const 20000))
            (memory.copy (i32.const 300000) (i32.const 0) (i32.const 200000))
            (br_if $out (i32.eqz (call $round (local.get $n))))
            (br $again)))
        (local.set $i (i32.const 0))
        (loop $add
            (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 31)) (i64.load (local.get $i))))
            (local.set $i (i32.add (local.get $i) (i32.const 8)))
            (br_if $add (i32.lt_u (local.get $i) (i32.mul (memory.size) (i32.const 65536)))))
        (i64.add (local.get $sum) (i64.extend_i32_u (local.get $n)))))"#;

/// Lets the program go on for `rounds` rounds, and tells how far it is.
struct Rounds {
    rounds: i32,
    reached: mpsc::Sender<i32>,
    forever: Arc<AtomicBool>,
}

impl Host for Rounds {
    fn resolve(&self, module: &str, name: &str, _: &[ValueType], _: &[ValueType]) -> Option<u32> {
        ["round", "fill"].iter().position(|import| *import == name && module == "env").map(|at| at as u32)
    }

    fn call(&mut self, function: u32, memory: &mut [u8], args: &[Value], results: &mut [Value]) -> Flow {
        match (function, args) {
            (0, [Value::I32(round)]) => {
                let _gone = self.reached.send(*round);
                let more = self.forever.load(Ordering::Relaxed) || *round < self.rounds;
                results[0] = Value::I32(i32::from(more));
            }
            (_, [Value::I32(at), Value::I32(length)]) => {
                // The kernel writes here, as it does in a program's `fd_read`.
                let file = std::fs::File::open("/proc/self/exe").unwrap();
                std::io::Read::read_exact(&mut &file, &mut memory[*at as usize..][..*length as usize]).unwrap();
            }
            _ => return Flow::Trap("unknown".to_owned()),
        }
        Flow::Return
    }
}

fn host(rounds: i32, forever: bool) -> (Box<dyn Host>, mpsc::Receiver<i32>, Arc<AtomicBool>) {
    let (reached, progress) = mpsc::channel();
    let forever = Arc::new(AtomicBool::new(forever));
    (Box::new(Rounds { rounds, reached, forever: forever.clone() }), progress, forever)
}

/// Waits until a round is reached, and tells which one was.
fn wait(progress: &mpsc::Receiver<i32>, round: i32) -> i32 {
    loop {
        let reached = progress.recv().unwrap();
        if reached >= round {
            return reached;
        }
    }
}

fn code(engine: &Engine) -> Code {
    let wasm = wat::parse_str(GUEST).unwrap();
    let options = Options { poll: Poll::Flag, variant: Variant::Resume };
    Code::instrumented(engine, &instrument(&wasm, options).unwrap()).unwrap()
}

const PAGES: i32 = 300;

fn finished(outcome: Outcome) -> Value {
    match outcome {
        Outcome::Finished(values) => values[0],
        other => panic!("{other:?}"),
    }
}

/// What an undisturbed run of `rounds` rounds gives.
fn undisturbed(code: &Code, rounds: i32) -> Value {
    let mut instance = Instance::new(code, host(rounds, false).0, Limits::default()).unwrap();
    finished(instance.invoke("run", &[Value::I32(PAGES)]).unwrap())
}

/// Copies what a scan lists into the prepared instance, as a migration would. Returns how many pages that were.
fn copy(tracker: &mut Tracker, prepared: &mut Prepared) -> u64 {
    let mut count = 0;
    for (memory, ranges) in tracker.scan().unwrap().into_iter().enumerate() {
        for range in ranges {
            count += range.end - range.start;
            let mut bytes = Vec::new();
            tracker.read(memory, range.clone(), &mut bytes);
            prepared.write(memory, range.start, &bytes).unwrap();
        }
    }
    count
}

/// Whether the kernel (or what stands for it: qemu passes no userfaultfd on) marks pages as they are written. It tells when
/// it is asked for nothing; the marks and the call that reads them came in one version.
fn kernel_marks_writes() -> bool {
    use rustix::ioctl::{Updater, ioctl, opcode};
    use rustix::mm::{UserfaultfdFlags, userfaultfd};
    const WP_ASYNC: u64 = 1 << 15;
    const USER_MODE_ONLY: u32 = 1;
    const API: u8 = 0xaa;
    let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::from_bits_retain(USER_MODE_ONLY);
    // SAFETY: nothing is ever registered with the descriptor.
    let userfault = match unsafe { userfaultfd(flags) } {
        Ok(userfault) => userfault,
        Err(error) => {
            eprintln!("the kernel gives no userfaultfd ({error}): pages must be hashed");
            return false;
        }
    };
    // struct uffdio_api: the version, the features, the calls.
    let mut arg = [u64::from(API), 0, 0];
    // SAFETY: UFFDIO_API reads and writes these three words.
    let asked =
        unsafe { ioctl(userfault, Updater::<{ opcode::read_write::<[u64; 3]>(API, 0x3f) }, [u64; 3]>::new(&mut arg)) };
    asked.is_ok() && arg[1] & WP_ASYNC != 0
}

fn moves_while_it_runs(tier: Tier, hashing: bool, expected: Method) {
    let engine = engine(tier);
    let code = code(&engine);
    let (source_host, progress, _) = host(0, true);
    let mut instance = Instance::new(&code, source_host, Limits::default()).unwrap();
    let mut tracker = instance.tracker(hashing).unwrap();
    assert_eq!(tracker.method(), expected);
    let stop = instance.stop_handle();
    let program = thread::spawn(move || {
        assert_eq!(instance.invoke("run", &[Value::I32(PAGES)]).unwrap(), Outcome::Stopped);
        instance
    });
    let mut prepared = Prepared::new(&code, host(0, false).0, Limits::default()).unwrap();
    let mut seen = 0;
    for _ in 0..4 {
        // What was reached by now, not what is still in the queue.
        let now = progress.try_iter().last().unwrap_or(seen);
        seen = wait(&progress, now + 3);
        // A program that writes every page in every round never has less to send; hashing leaves out the pages in
        // which it, or its host, wrote what was there.
        let least = if expected == Method::WriteProtect { PAGES } else { PAGES / 2 };
        assert!(copy(&mut tracker, &mut prepared) >= least as u64);
    }
    assert!(stop.request());
    let mut instance = program.join().unwrap();
    copy(&mut tracker, &mut prepared);
    assert_eq!(tracker.scan().unwrap().into_iter().flatten().count(), 0, "nothing is written at a standstill");
    let rest = instance.capture_rest().unwrap();
    let reached = progress.try_iter().last().unwrap_or(seen);

    let rounds = reached + 25;
    let (host, _progress, _) = host(rounds, false);
    let mut moved = prepared.finish(&rest, host).unwrap();
    let there = finished(moved.resume(&[]).unwrap());
    assert_eq!(there, undisturbed(&code, rounds), "{tier} {hashing}");

    // The source, had it stayed, would have come to the same.
    instance.stay().unwrap();
    let source: &mut dyn std::any::Any = instance.host_mut();
    let source = source.downcast_mut::<Rounds>().unwrap();
    source.rounds = rounds;
    source.forever.store(false, Ordering::Relaxed);
    assert_eq!(finished(instance.resume(&[]).unwrap()), there);
}

#[test]
fn moves_while_it_runs_by_write_protection() {
    let expected = if kernel_marks_writes() { Method::WriteProtect } else { Method::Hashing };
    moves_while_it_runs(Tier::Cranelift, false, expected);
}

#[test]
fn moves_while_it_runs_by_hashing() {
    moves_while_it_runs(Tier::Cranelift, true, Method::Hashing);
}

#[test]
fn moves_while_it_runs_in_an_interpreter() {
    moves_while_it_runs(Tier::Wasmi, false, Method::Copying);
}

/// A page that a memory grew by, and that was written, is listed by a scan: none is lost between two looks at a size that
/// changes meanwhile.
#[test]
fn no_page_of_a_memory_that_grows_meanwhile_is_left_out() {
    /// Grows by a page in each round and writes at its new end.
    const GROWING: &str = r#"(module (memory (export "memory") 1 4000)
        (func (export "run") (param $pages i32) (result i32)
            (loop $again
                (drop (memory.grow (i32.const 1)))
                (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (i32.const 1))
                (br_if $again (i32.lt_u (memory.size) (local.get $pages))))
            (memory.size)))"#;
    const SYSTEM_PAGES: u64 = 65536 / PAGE_SIZE as u64;
    let wasm = wat::parse_str(GROWING).unwrap();
    let instrumented = instrument(&wasm, Options { poll: Poll::Flag, variant: Variant::Resume }).unwrap();
    let code = Code::instrumented(&engine(Tier::Cranelift), &instrumented).unwrap();
    for hashing in [false, true] {
        let mut instance = Instance::new(&code, host(0, false).0, Limits::default()).unwrap();
        let mut tracker = instance.tracker(hashing).unwrap();
        // Hashing reads all of the memory at every scan.
        let pages = if tracker.method() == Method::WriteProtect { 4000 } else { 500 };
        let running = thread::spawn(move || {
            let ended = instance.invoke("run", &[Value::I32(pages)]).unwrap();
            (instance, ended)
        });
        let mut listed = std::collections::BTreeSet::new();
        let mut scan = |tracker: &mut Tracker| listed.extend(tracker.scan().unwrap()[0].iter().cloned().flatten());
        while !running.is_finished() {
            scan(&mut tracker);
        }
        let (_instance, ended) = running.join().unwrap();
        assert_eq!(finished(ended), Value::I32(pages));
        scan(&mut tracker);
        let lost: Vec<u64> =
            (1..pages as u64).filter(|page| !listed.contains(&(page * SYSTEM_PAGES + SYSTEM_PAGES - 1))).collect();
        assert!(lost.is_empty(), "{}: {lost:?}", tracker.method());
    }
}

#[test]
fn stays_and_stops_many_times() {
    for tier in [Tier::Cranelift, Tier::Wasmi] {
        let engine = engine(tier);
        let options = Options { poll: Poll::Count, variant: Variant::Resume };
        let counting = instrument(&wat::parse_str(GUEST).unwrap(), options).unwrap();
        let counting = Code::instrumented(&engine, &counting).unwrap();
        let mut instance = Instance::new(&counting, host(20, false).0, Limits::default()).unwrap();
        instance.set_count(700).unwrap();
        let mut outcome = instance.invoke("run", &[Value::I32(PAGES)]).unwrap();
        let mut stops = 0;
        while outcome == Outcome::Stopped {
            stops += 1;
            instance.capture_rest().unwrap();
            instance.stay().unwrap();
            instance.set_count(700 + stops).unwrap();
            outcome = instance.resume(&[]).unwrap();
        }
        assert!(stops > 3, "{stops}");
        assert_eq!(finished(outcome), undisturbed(&code(&engine), 20), "{tier}");
    }
}

#[test]
fn memory_arrives_after_the_switch() {
    if !Lazy::is_available() {
        eprintln!("skipped: this process may not handle faults of the kernel (userfaultfd needs privileges here)");
        return;
    }
    let engine = engine(Tier::Cranelift);
    let code = code(&engine);
    let (source_host, progress, _) = host(0, true);
    let mut instance = Instance::new(&code, source_host, Limits::default()).unwrap();
    let mut tracker = instance.tracker(false).unwrap();
    let stop = instance.stop_handle();
    let program = thread::spawn(move || {
        assert_eq!(instance.invoke("run", &[Value::I32(PAGES)]).unwrap(), Outcome::Stopped);
        instance
    });
    let mut prepared = Prepared::new(&code, host(0, false).0, Limits::default()).unwrap();
    wait(&progress, 10);
    // A first round that is old by the time of the switch.
    copy(&mut tracker, &mut prepared);
    // However far the program was by then, it writes some more.
    let copied = progress.try_iter().last().unwrap_or(10);
    let seen = wait(&progress, copied + 10);
    stop.request();
    let mut instance = program.join().unwrap();
    let rest = instance.capture_rest().unwrap();
    let dirty = tracker.scan().unwrap();
    let missing: Vec<(usize, std::ops::Range<u64>)> = dirty[0].iter().map(|range| (0, range.clone())).collect();
    prepared.grow(0, rest.memories[0].size).unwrap();
    let (faults, asked) = mpsc::channel();
    let mut lazy = prepared.lazy(&missing, Box::new(move |memory, page| faults.send((memory, page)).unwrap())).unwrap();
    let total: u64 = missing.iter().map(|(_, range)| range.end - range.start).sum();
    assert!(total > 0, "nothing was written since the first round");
    assert_eq!(lazy.missing(), total);
    let reached = progress.try_iter().last().unwrap_or(seen);
    let rounds = reached + 5;
    let (host, _progress, _) = host(rounds, false);
    let mut moved = prepared.finish(&rest, host).unwrap();
    let running = thread::spawn(move || finished(moved.resume(&[]).unwrap()));
    let mut page_of = |page: u64| {
        let mut bytes = Vec::new();
        tracker.read(0, page..page + 1, &mut bytes);
        bytes
    };
    // Only what is asked for, at first.
    let (memory, page) = asked.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(!lazy.end().unwrap());
    assert!(lazy.place(memory, page, Some(&page_of(page))).unwrap());
    // It is there now, and the program may have changed it: a copy that comes late is not taken.
    assert!(!lazy.place(memory, page, Some(&[0xee; PAGE_SIZE])).unwrap());
    for page in missing.iter().flat_map(|(_, range)| range.clone()) {
        let bytes = page_of(page);
        let zero = dunlin_base::is_zero(&bytes);
        lazy.place(0, page, (!zero).then_some(&bytes[..])).unwrap();
    }
    assert_eq!(running.join().unwrap(), undisturbed(&code, rounds));
    assert!(lazy.end().unwrap());
}

#[test]
fn a_prepared_instance_keeps_to_its_limits() {
    let engine = engine(Tier::Cranelift);
    let code = code(&engine);
    let limits = Limits { memory_bytes: 20 << 16, ..Limits::default() };
    let mut prepared = Prepared::new(&code, host(0, false).0, limits).unwrap();
    prepared.write(0, 19 * 16, &[1; PAGE_SIZE]).unwrap();
    assert_eq!(prepared.size(0), 20 << 16);
    assert!(prepared.write(0, 20 * 16, &[1; PAGE_SIZE]).is_err());
    assert!(prepared.write(1, 0, &[1; PAGE_SIZE]).is_err());
    assert!(prepared.write(0, u64::MAX / 2, &[1; PAGE_SIZE]).is_err());
    assert!(prepared.clear(0, 1 << 40, 3).is_err());
    prepared.clear(0, 17, 3).unwrap();
    let data = &prepared.bytes(0)[17 * PAGE_SIZE..18 * PAGE_SIZE];
    assert!(dunlin_base::is_zero(data) && prepared.is_fresh(0, 16, data) && !prepared.is_fresh(0, 17, data));
}
