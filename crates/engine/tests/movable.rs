//! Stop, capture, restore and go on, over all tiers and all ordered pairs of them.
#![allow(missing_docs, reason = "a test program")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use common::{TestHost, World, code, codes, counter, engine, host, instance};
use dunlin_base::Value;
use dunlin_engine::{Code, Entry, Error, Instance, Limits, Outcome, StateError, Tier};
use dunlin_instrument::Phase;
use dunlin_snapshot::{Page, State};

const N: i32 = 500;

fn stopped(code: &Code, count: i64) -> State {
    let mut instance = instance(code);
    instance.set_count(count).unwrap();
    assert_eq!(instance.invoke("run", &[Value::I32(N)]).unwrap(), Outcome::Stopped);
    instance.capture().unwrap()
}

#[test]
fn state_is_the_same_on_every_tier_and_goes_on_on_every_tier() {
    let codes = codes();
    let mut expected = instance(&codes[0]);
    assert_eq!(expected.invoke("run", &[Value::I32(N)]).unwrap(), Outcome::Finished(vec![Value::I32(2 * N)]));
    let expected = expected.observe().unwrap();
    assert_eq!(expected.globals[0], Value::I64(5 + i64::from(N * (N + 1) / 2)));
    assert_eq!(expected.tables[0].elements[1], Value::FuncRef(Some(4)));
    for count in [1, 2, 77, 499, 500] {
        let first = stopped(&codes[0], count);
        assert_eq!(first.frames.len(), 2);
        assert_eq!((first.frames[0].safepoint, first.frames[0].phase), (1, Phase::Inside));
        assert_eq!(
            first.frames[1].values,
            [
                Value::I32(N),
                Value::I32(count as i32 - 1),
                Value::FuncRef(Some(4)),
                Value::V128(0x80000000_00000003_00000002_00000001),
                Value::F32(0x7fa0_0001)
            ]
        );
        for from in &codes {
            assert_eq!(stopped(from, count), first, "{from:?}");
            for to in &codes {
                let mut restored = Instance::restore(to, &first, host(), Limits::default()).unwrap();
                let outcome = restored.resume(&[]).unwrap();
                assert_eq!(outcome, Outcome::Finished(vec![Value::I32(2 * N)]), "{from:?} to {to:?} at {count}");
                assert_eq!(restored.observe().unwrap(), expected, "{from:?} to {to:?} at {count}");
                // It is an ordinary instance again.
                let again = restored.invoke("run", &[Value::I32(3)]).unwrap();
                assert_eq!(again, Outcome::Finished(vec![Value::I32(6)]));
            }
        }
    }
}

#[test]
fn moving_at_every_safepoint_in_a_chain_changes_nothing() {
    let codes = codes();
    let mut expected = instance(&codes[0]);
    expected.invoke("run", &[Value::I32(60)]).unwrap();
    let mut state = {
        let mut first = instance(&codes[0]);
        first.set_count(1).unwrap();
        assert_eq!(first.invoke("run", &[Value::I32(60)]).unwrap(), Outcome::Stopped);
        first.capture().unwrap()
    };
    let mut moves = 0;
    let mut last = loop {
        moves += 1;
        let mut next = Instance::restore(&codes[moves % 3], &state, host(), Limits::default()).unwrap();
        next.set_count(2).unwrap();
        match next.resume(&[]).unwrap() {
            Outcome::Stopped => state = next.capture().unwrap(),
            outcome => {
                assert_eq!(outcome, Outcome::Finished(vec![Value::I32(120)]));
                break next;
            }
        }
    };
    assert!(moves >= 59, "{moves}");
    assert_eq!(last.observe().unwrap(), expected.observe().unwrap());
}

#[test]
fn another_thread_stops_an_endless_loop() {
    for code in codes() {
        let mut instance = instance(&code);
        let handle = instance.stop_handle();
        let outside = handle.clone();
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            assert!(outside.request());
            assert!(outside.request(), "asking again is harmless");
        });
        // 2^32 rounds.
        assert_eq!(instance.invoke("run", &[Value::I32(0)]).unwrap(), Outcome::Stopped);
        thread.join().unwrap();
        let delay = instance.time_to_stop().unwrap();
        assert!(delay < Duration::from_secs(1), "{delay:?}");
        let state = instance.capture().unwrap();
        assert_eq!(state.frames.len(), 2);
        assert!(!handle.request(), "nothing is left to stop");
        drop(instance);
        assert!(!handle.request());
        let mut restored = Instance::restore(&code, &state, host(), Limits::default()).unwrap();
        restored.set_count(5).unwrap();
        assert_eq!(restored.resume(&[]).unwrap(), Outcome::Stopped);
        let Value::I32(before) = state.frames[1].values[1] else { panic!() };
        assert_eq!(restored.capture().unwrap().frames[1].values[1], Value::I32(before + 4));
    }
}

#[test]
fn a_request_before_the_run_stops_at_the_first_safepoint() {
    for code in codes() {
        let mut instance = instance(&code);
        assert!(instance.stop_handle().request());
        instance.clear_request().unwrap();
        assert!(!instance.stop_handle().is_requested());
        assert_eq!(instance.invoke("run", &[Value::I32(1)]).unwrap(), Outcome::Finished(vec![Value::I32(2)]));
        assert!(instance.stop_handle().request());
        assert_eq!(instance.invoke("run", &[Value::I32(1)]).unwrap(), Outcome::Stopped);
        assert_eq!(instance.capture().unwrap().frames[1].values[1], Value::I32(0));
        assert!(matches!(instance.capture(), Err(Error::Condition(_))));
        assert!(matches!(instance.invoke("run", &[Value::I32(1)]), Err(Error::Condition(_))));
    }
}

#[test]
fn a_blocked_host_call_is_issued_again_after_the_move() {
    for from in codes() {
        let world = Arc::new(World::default());
        let mut instance = Instance::new(&from, Box::new(TestHost(world.clone())), Limits::default()).unwrap();
        let stop = instance.stop_handle();
        *world.block.lock().unwrap() = Some(stop.clone());
        let waking = world.clone();
        stop.on_request(Box::new(move || {
            drop(waking.block.lock().unwrap());
            waking.woken.notify_all();
        }));
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_millis(10));
            stop.request()
        });
        assert_eq!(instance.invoke("ask", &[]).unwrap(), Outcome::Stopped);
        assert!(thread.join().unwrap());
        let state = instance.capture().unwrap();
        assert_eq!(world.ticks.load(Ordering::Relaxed), 0);
        assert_eq!((state.frames[0].safepoint, state.frames[0].phase), (2, Phase::Inside));
        assert_eq!(state.memories[0].pages.len(), 1, "what the host wrote");
        for to in codes() {
            let world = Arc::new(World::default());
            let host = Box::new(TestHost(world.clone()));
            let mut restored = Instance::restore(&to, &state, host, Limits::default()).unwrap();
            assert_eq!(restored.resume(&[]).unwrap(), Outcome::Finished(vec![Value::I32(15)]));
            assert_eq!(world.ticks.load(Ordering::Relaxed), 1);
        }
    }
}

#[test]
fn the_start_function_runs_once_and_the_entries_behind_it_follow() {
    let sum = 1000 * 1001 / 2;
    let done = Value::I64(5 + 2 * sum + 10100);
    for from in codes() {
        let mut whole = instance(&from);
        assert_eq!(whole.run(&Entry::command()).unwrap(), Outcome::Finished(vec![]));
        assert_eq!(whole.observe().unwrap().globals[0], done);
        for (count, function) in [(10, 3), (1001, 4)] {
            let mut stopped = instance(&from);
            stopped.set_count(count).unwrap();
            assert_eq!(stopped.run(&Entry::command()).unwrap(), Outcome::Stopped);
            let state = stopped.capture().unwrap();
            assert_eq!(state.frames[0].safepoint, function);
            for to in codes() {
                let mut restored = Instance::restore(&to, &state, host(), Limits::default()).unwrap();
                let wrong = restored.resume(&[Entry::Export("run".to_owned())]);
                assert!(matches!(wrong, Err(Error::Arguments { .. })), "{wrong:?}");
                let wrong = restored.resume(&["ask", "ask"].map(|name| Entry::Export(name.to_owned())));
                assert!(matches!(wrong, Err(Error::Entry { matches: 0, .. })), "{wrong:?}");
                assert_eq!(restored.resume(&Entry::command()).unwrap(), Outcome::Finished(vec![]));
                assert_eq!(restored.observe().unwrap().globals[0], done);
            }
        }
    }
}

#[test]
fn growth_drops_handles_and_zeroed_pages_are_carried() {
    for from in codes() {
        let mut source = instance(&from);
        assert_eq!(source.invoke("grow", &[Value::I32(2)]).unwrap(), Outcome::Finished(vec![Value::I32(1)]));
        for step in [0, 3, 5, 6] {
            assert_eq!(source.invoke("misc", &[Value::I32(step)]).unwrap(), Outcome::Finished(vec![Value::I64(0)]));
        }
        source.set_count(3).unwrap();
        assert_eq!(source.invoke("run", &[Value::I32(9)]).unwrap(), Outcome::Stopped);
        let state = source.capture().unwrap();
        assert_eq!(state.memories[0].size, 3 * 65536);
        assert_eq!(state.memories[0].pages.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(state.memories[0].pages[1].1, Page::Zero, "the data segment's second page was cleared");
        assert_eq!((&state.dropped_data[..], &state.dropped_elems[..]), (&[1][..], &[][..]));
        assert_eq!(state.tables[0].elements.len(), 7);
        assert_eq!(state.tables[1].elements, [Value::ExternRef(None), Value::ExternRef(Some(77))]);
        for to in codes() {
            let mut target = Instance::restore(&to, &state, host(), Limits::default()).unwrap();
            let seen = target.observe().unwrap();
            assert_eq!(
                State { entry: state.entry.clone(), frames: state.frames.clone(), ..seen },
                state,
                "{from:?} to {to:?}"
            );
            assert_eq!(target.resume(&[]).unwrap(), Outcome::Finished(vec![Value::I32(18)]));
            assert_eq!(target.invoke("misc", &[Value::I32(1)]).unwrap(), Outcome::Finished(vec![Value::I64(77)]));
            let dropped = target.invoke("misc", &[Value::I32(4)]).unwrap();
            assert!(
                matches!(&dropped, Outcome::Trapped(trap) if trap.message.contains("out of bounds")),
                "{dropped:?}"
            );
        }
    }
}

#[test]
fn damaged_states_are_refused_before_anything_is_made() {
    let code = code(Tier::Cranelift);
    let good = stopped(&code, 7);
    let mut refused = 0;
    let mut refuse = |name: &str, damage: &dyn Fn(&mut State)| {
        let mut state = good.clone();
        damage(&mut state);
        assert_ne!(state, good, "{name}");
        let restored = Instance::restore(&code, &state, host(), Limits::default());
        let error = restored.err().unwrap_or_else(|| panic!("{name} was accepted"));
        assert!(matches!(error, Error::State(_) | Error::Limit { .. } | Error::Value { .. }), "{name}: {error:?}");
        refused += 1;
    };
    refuse("no frames", &|state| state.frames.clear());
    refuse("safepoint", &|state| state.frames[1].safepoint = 5);
    refuse("inside a loop", &|state| state.frames[1].phase = Phase::Inside);
    refuse("outer frame at", &|state| state.frames[0].phase = Phase::At);
    refuse("outer frame alone inside a call", &|state| state.frames.truncate(1));
    refuse("missing value", &|state| state.frames[1].values.truncate(4));
    refuse("wrong type", &|state| state.frames[1].values[0] = Value::I64(0));
    refuse("function that does not escape", &|state| state.frames[1].values[2] = Value::FuncRef(Some(5)));
    refuse("function that is not there", &|state| state.globals[1] = Value::FuncRef(Some(u32::MAX)));
    refuse("missing global", &|state| state.globals.truncate(1));
    refuse("exception", &|state| state.tables[1].elements[0] = Value::ExnRef(Some(0)));
    refuse("small table", &|state| state.tables[0].elements.truncate(2));
    refuse("large table", &|state| state.tables[0].elements.resize(11, Value::FuncRef(None)));
    refuse("memory not of whole pages", &|state| state.memories[0].size += 1);
    refuse("memory below its minimum", &|state| state.memories[0].size = 0);
    refuse("memory beyond its maximum", &|state| state.memories[0].size = 5 << 16);
    refuse("huge memory", &|state| state.memories[0].size = 1 << 63);
    refuse("page twice", &|state| {
        let page = state.memories[0].pages[0].clone();
        state.memories[0].pages.insert(0, page);
    });
    refuse("page behind the end", &|state| state.memories[0].pages.push((16, Page::Zero)));
    refuse("page far behind the end", &|state| state.memories[0].pages.push((u64::MAX, Page::Zero)));
    refuse("short page", &|state| state.memories[0].pages[0].1 = Page::Bytes(Box::new([1; 4095])));
    refuse("segment", &|state| state.dropped_data.push(2));
    refuse("segment twice", &|state| state.dropped_data.extend([1, 1]));
    refuse("segment that is never dropped out of order", &|state| state.dropped_data.extend([1, 0]));
    assert_eq!(refused, 24);
    // A stack that is not the entry's.
    let mut state = good.clone();
    state.frames.remove(0);
    let wrong = Instance::restore(&code, &state, host(), Limits::default());
    assert!(matches!(wrong, Err(Error::State(StateError::ForeignEntry { function: 4, .. }))), "{wrong:?}");
    // Frames that fit their types but not each other are found while rewinding.
    let mut state = good.clone();
    let outer = state.frames[0].clone();
    state.frames.insert(0, outer);
    let mut nested = Instance::restore(&code, &state, host(), Limits::default()).unwrap();
    assert!(matches!(nested.resume(&[]), Ok(_) | Err(Error::Rewind(_))));
}

#[test]
fn limits_hold_for_growth_instantiation_and_restore() {
    for code in codes() {
        let limits = Limits { memory_bytes: 2 << 16, table_elements: 5 };
        let mut instance = Instance::new(&code, host(), limits).unwrap();
        let mut grow = |pages| instance.invoke("grow", &[Value::I32(pages)]).unwrap();
        assert_eq!(grow(2), Outcome::Finished(vec![Value::I32(-1)]));
        assert_eq!(grow(1), Outcome::Finished(vec![Value::I32(1)]));
        assert_eq!(grow(1), Outcome::Finished(vec![Value::I32(-1)]));
        instance.invoke("misc", &[Value::I32(5)]).unwrap();
        assert_eq!(instance.observe().unwrap().tables[0].elements.len(), 3, "the table did not grow");
        instance.set_count(2).unwrap();
        assert_eq!(instance.invoke("run", &[Value::I32(5)]).unwrap(), Outcome::Stopped);
        let state = instance.capture().unwrap();
        let small = Limits { memory_bytes: 1 << 16, ..limits };
        let error = Instance::restore(&code, &state, host(), small).unwrap_err();
        assert!(matches!(&error, Error::Limit { wanted: 131_072, limit: 65_536, .. }), "{error}");
        let error = Instance::new(&code, host(), Limits { table_elements: 2, ..limits }).unwrap_err();
        assert!(matches!(&error, Error::Limit { wanted: 3, limit: 2, .. }), "{error}");
    }
}

#[test]
fn only_the_resumable_variant_can_be_restored_into() {
    let state = stopped(&code(Tier::Pulley), 3);
    let fresh = common::COUNTER.replace("(export \"dunlin:resume\")", "");
    let mut instrumented = counter();
    instrumented.wasm = wat::parse_str(fresh).unwrap();
    let code = Code::instrumented(&engine(Tier::Pulley), &instrumented).unwrap();
    assert!(matches!(Instance::restore(&code, &state, host(), Limits::default()), Err(Error::NotResumable)));
    let plain = Code::plain(&engine(Tier::Pulley), &instrumented.wasm).unwrap();
    assert!(matches!(Instance::restore(&plain, &state, host(), Limits::default()), Err(Error::NotMovable)));
}

#[test]
fn a_map_of_another_module_is_refused() {
    let engine = engine(Tier::Wasmi);
    let mut other = counter();
    let map = Arc::make_mut(&mut other.map);
    map.tables.extend(vec![map.tables[0].clone(); 9]);
    assert!(matches!(Code::instrumented(&engine, &other), Err(Error::Instrumentation(_))));
    let mut other = counter();
    Arc::make_mut(&mut other.map).control.frames = 10;
    assert!(matches!(Code::instrumented(&engine, &other), Err(Error::Instrumentation(_))));
}

#[test]
fn state_errors_say_where() {
    let code = code(Tier::Cranelift);
    let mut state = stopped(&code, 7);
    state.frames[1].values[2] = Value::FuncRef(Some(5));
    let Err(Error::State(error)) = Instance::restore(&code, &state, host(), Limits::default()) else { panic!() };
    assert_eq!(error, StateError::Function { place: "Local(2) of frame 1".to_owned(), function: 5 });
}

#[test]
fn a_large_untouched_memory_is_captured_quickly() {
    let wat = common::COUNTER.replace("(export \"dunlin:m0\") 1 4)", "(export \"dunlin:m0\") 16384)");
    let mut instrumented = counter();
    instrumented.wasm = wat::parse_str(wat).unwrap();
    let memory = &mut Arc::make_mut(&mut instrumented.map).memories[0];
    (memory.minimum, memory.maximum) = (16384, None);
    let code = Code::instrumented(&engine(Tier::Cranelift), &instrumented).unwrap();
    let mut instance = instance(&code);
    instance.set_count(5).unwrap();
    assert_eq!(instance.invoke("run", &[Value::I32(9)]).unwrap(), Outcome::Stopped);
    let begin = Instant::now();
    let state = instance.capture().unwrap();
    let took = begin.elapsed();
    println!("1 GiB, two pages touched: {took:?}");
    assert_eq!(state.memories[0].size, 1 << 30);
    assert_eq!(state.memories[0].pages.len(), 1);
}
