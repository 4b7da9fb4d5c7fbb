//! The table of functions is exactly preview 1, and calls that do not fit it are refused.

mod support;

use dunlin_base::Value;
use dunlin_base::ValueType::{self, I32, I64};
use dunlin_engine::{Flow, Host as _};
use dunlin_host::{Config, World, matrix};

/// The functions of `wasi_snapshot_preview1` as its definition lists them, with their core types.
const PREVIEW1: &str = "\
args_get ii, args_sizes_get ii, environ_get ii, environ_sizes_get ii, clock_res_get ii, clock_time_get iIi, \
fd_advise iIIi, fd_allocate iII, fd_close i, fd_datasync i, fd_fdstat_get ii, fd_fdstat_set_flags ii, \
fd_fdstat_set_rights iII, fd_filestat_get ii, fd_filestat_set_size iI, fd_filestat_set_times iIIi, \
fd_pread iiiIi, fd_prestat_get ii, fd_prestat_dir_name iii, fd_pwrite iiiIi, fd_read iiii, fd_readdir iiiIi, \
fd_renumber ii, fd_seek iIii, fd_sync i, fd_tell ii, fd_write iiii, path_create_directory iii, \
path_filestat_get iiiii, path_filestat_set_times iiiiIIi, path_link iiiiiii, path_open iiiiiIIii, \
path_readlink iiiiii, path_remove_directory iii, path_rename iiiiii, path_symlink iiiii, path_unlink_file iii, \
poll_oneoff iiii, proc_exit i, proc_raise i, sched_yield , random_get ii, sock_accept iii, sock_recv iiiiii, \
sock_send iiiii, sock_shutdown ii";

#[test]
fn every_function_of_preview_1_is_there_and_no_other() {
    let expected: Vec<(String, Vec<ValueType>)> = PREVIEW1
        .split(", ")
        .map(|entry| {
            let (name, types) = entry.split_once(' ').unwrap();
            (name.to_owned(), types.chars().map(|ty| if ty == 'i' { I32 } else { I64 }).collect())
        })
        .collect();
    let actual: Vec<_> = matrix().map(|entry| (entry.name.to_owned(), entry.params.to_vec())).collect();
    assert_eq!(actual, expected);
    assert_eq!(actual.len(), 46);
}

#[test]
fn the_table_names_files_that_define_the_functions() {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/preview1");
    for entry in matrix() {
        let text = std::fs::read_to_string(source.join(entry.file)).unwrap();
        let definition = format!("pub(crate) fn {}(", entry.name);
        assert!(text.contains(&definition), "{} is not in {}", entry.name, entry.file);
    }
}

#[test]
fn imports_resolve_by_their_exact_type() {
    let world = World::new(Config::new()).unwrap();
    let module = "wasi_snapshot_preview1";
    assert!(world.resolve(module, "fd_seek", &[I32, I64, I32, I32], &[I32]).is_some());
    assert_eq!(world.resolve(module, "fd_seek", &[I32, I32, I32, I32], &[I32]), None);
    assert_eq!(world.resolve(module, "fd_seek", &[I32, I64, I32, I32], &[]), None);
    assert_eq!(world.resolve("wasi_unstable", "fd_seek", &[I32, I64, I32, I32], &[I32]), None);
    assert_eq!(world.resolve(module, "fd_sought", &[], &[I32]), None);
    assert!(world.resolve(module, "proc_exit", &[I32], &[]).is_some());
    assert_eq!(world.resolve(module, "proc_exit", &[I32], &[I32]), None);
}

#[test]
fn calls_that_do_not_fit_trap() {
    let mut world = World::new(Config::new()).unwrap();
    let close = world.resolve("wasi_snapshot_preview1", "fd_close", &[I32], &[I32]).unwrap();
    let mut result = [Value::I32(0)];
    for args in [&[][..], &[Value::I64(0)], &[Value::I32(0), Value::I32(0)]] {
        assert!(matches!(world.call(close, &mut [], args, &mut result), Flow::Trap(_)));
    }
    assert!(matches!(world.call(close, &mut [], &[Value::I32(0)], &mut []), Flow::Trap(_)));
    assert!(matches!(world.call(46, &mut [], &[], &mut []), Flow::Trap(_)));
    assert_eq!(world.call(close, &mut [], &[Value::I32(0)], &mut result), Flow::Return);
}

#[test]
fn the_tests_that_the_table_names_are_there() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let exists = |test: &str| {
        let (file, function) = test.split_once("::").expect("file::function");
        let text = std::fs::read_to_string(directory.join(file).with_extension("rs"));
        let text = text.unwrap_or_else(|error| panic!("{test}: {error}"));
        assert!(text.contains(&format!("#[test]\nfn {function}() {{")), "{test} is not there");
    };
    for entry in matrix() {
        exists(entry.shown_by);
        assert_eq!(
            entry.moved_by.is_empty(),
            entry.state.is_empty() && !entry.blocks,
            "{}: what blocks or keeps state is moved in the middle of it",
            entry.name
        );
        if !entry.moved_by.is_empty() {
            exists(entry.moved_by);
        }
    }
}
