//! A real program on real engines: it is stopped while it sleeps and while it waits for input, and moves on.

mod support;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dunlin_engine::{Code, Engine, Entry, Instance, Outcome, Settings, Tier};
use dunlin_host::{Capture, Config, Input, Output, World};
use dunlin_instrument::{Options, Variant, instrument};

/// Prints `begin`, sleeps for 300 ms, copies its input to its output, prints `end`.
const COPY: &str = r#"
(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "begin\n")
  (data (i32.const 8) "end\n")
  ;; A relative sleep of 300,000,000 ns on the monotonic clock.
  (data (i32.const 64) "\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\00\a3\e1\11")
  (func $print (param $at i32) (param $len i32)
    (i32.store (i32.const 256) (local.get $at))
    (i32.store (i32.const 260) (local.get $len))
    (if (call $write (i32.const 1) (i32.const 256) (i32.const 1) (i32.const 264)) (then unreachable)))
  (func (export "_start")
    (call $print (i32.const 0) (i32.const 6))
    (if (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 264)) (then unreachable))
    (loop $more
      (i32.store (i32.const 256) (i32.const 1024))
      (i32.store (i32.const 260) (i32.const 16))
      (if (call $read (i32.const 0) (i32.const 256) (i32.const 1) (i32.const 264)) (then unreachable))
      (if (i32.load (i32.const 264))
        (then
          (call $print (i32.const 1024) (i32.load (i32.const 264)))
          (br $more))))
    (call $print (i32.const 8) (i32.const 4))))
"#;

struct Host {
    output: Capture,
    input: Arc<std::os::fd::OwnedFd>,
}

impl Host {
    fn config(&self) -> Config {
        Config::new().stdin(Input::Fd(self.input.clone())).stdout(Output::Capture(self.output.clone()))
    }
}

fn code(tier: Tier, variant: Variant) -> Code {
    let wasm = wat::parse_str(COPY).unwrap();
    let instrumented = instrument(&wasm, Options { variant, ..Options::default() }).unwrap();
    let engine = Engine::new(tier, Settings::default()).unwrap();
    Code::instrumented(&engine, &instrumented).unwrap()
}

/// Requests a stop after a time.
fn stop_after(instance: &mut Instance, time: Duration) {
    let host: &mut dyn Any = instance.host_mut();
    let interrupt = host.downcast_mut::<World>().unwrap().interrupter();
    let handle = instance.stop_handle();
    handle.on_request(Box::new(interrupt));
    std::thread::spawn(move || {
        std::thread::sleep(time);
        handle.request();
    });
}

/// The stopped program on another engine.
fn moved(mut instance: Instance, host: &Host, tier: Tier) -> Instance {
    let late = instance.time_to_stop().unwrap();
    assert!(late < Duration::from_millis(100), "stopped after {late:?}");
    let mut state = instance.capture().unwrap();
    let world: &mut dyn Any = instance.host_mut();
    state.host = world.downcast_mut::<World>().unwrap().freeze().unwrap();
    drop(instance);
    let world = World::thaw(&state.host, host.config()).unwrap();
    Instance::restore(&code(tier, Variant::Resume), &state, Box::new(world), Default::default()).unwrap()
}

fn run_over(tiers: [Tier; 3]) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let host = Host { output: Capture::new(), input: Arc::new(read) };
    let world = World::new(host.config()).unwrap();
    let mut instance = Instance::new(&code(tiers[0], Variant::Fresh), Box::new(world), Default::default()).unwrap();
    let entries = Entry::command();

    stop_after(&mut instance, Duration::from_millis(100));
    let started = Instant::now();
    assert_eq!(instance.run(&entries).unwrap(), Outcome::Stopped, "in its sleep");
    let slept = started.elapsed();
    assert_eq!(host.output.contents(), b"begin\n");

    let mut instance = moved(instance, &host, tiers[1]);
    rustix::io::write(&write, b"some input").unwrap();
    stop_after(&mut instance, Duration::from_millis(400));
    let started = Instant::now();
    assert_eq!(instance.resume(&entries).unwrap(), Outcome::Stopped, "waiting for input");
    assert!(slept + started.elapsed() >= Duration::from_millis(300), "it slept the rest");
    assert_eq!(host.output.contents(), b"begin\nsome input");

    let mut instance = moved(instance, &host, tiers[2]);
    rustix::io::write(&write, b" and more than one buffer of it").unwrap();
    drop(write);
    assert_eq!(instance.resume(&entries).unwrap(), Outcome::Finished(vec![]));
    assert_eq!(host.output.contents(), b"begin\nsome input and more than one buffer of itend\n");
}

#[test]
fn a_blocked_program_moves_between_engines() {
    run_over([Tier::Cranelift, Tier::Wasmi, Tier::Pulley]);
    run_over([Tier::Wasmi, Tier::Pulley, Tier::Cranelift]);
}
