//! Loop kernels and small classics in one program, for tests and benchmarks.
//!
//! `kernels NAME SIZE REPEAT` prints a checksum; `kernels --list` prints `name test-size bench-size`, one kernel a line.
//! Each kernel is also an export `run_NAME(size: i32, repeat: i32) -> i64`, which needs no `_start` before it and
//! can be called any number of times in one instance. The checksum is the same on every machine: only operations
//! that IEEE 754 fixes are used.

mod algebra;
mod classic;
mod data;
mod dynamic;
mod graph;
mod matrix;
mod sha256;
mod stencil;

use std::hint::black_box;
use std::process::ExitCode;

type Kernel = fn(usize) -> u64;

struct Entry {
    name: &'static str,
    test_size: usize,
    bench_size: usize,
    run: extern "C" fn(i32, i32) -> i64,
}

/// Declares the exports and the list. `build.rs` reads the lines that begin with `run_`.
macro_rules! kernels {
    ($($export:ident $name:literal = $kernel:path, $test:literal, $bench:literal;)*) => {
        $(
            // SAFETY: each name occurs once in this program, and no library defines a symbol that begins with `run_`.
            #[unsafe(no_mangle)]
            extern "C" fn $export(size: i32, repeat: i32) -> i64 {
                repeated($kernel, size, repeat)
            }
        )*

        const KERNELS: &[Entry] = &[
            $(Entry { name: $name, test_size: $test, bench_size: $bench, run: $export },)*
        ];
    };
}

kernels! {
    run_gemm "gemm" = algebra::gemm, 12, 280;
    run_2mm "2mm" = algebra::two_mm, 10, 200;
    run_atax "atax" = algebra::atax, 24, 1200;
    run_mvt "mvt" = algebra::mvt, 24, 1200;
    run_trisolv "trisolv" = algebra::trisolv, 32, 1800;
    run_lu "lu" = algebra::lu, 14, 420;
    run_cholesky "cholesky" = algebra::cholesky, 16, 420;
    run_jacobi_1d "jacobi_1d" = stencil::jacobi_1d, 64, 8000;
    run_jacobi_2d "jacobi_2d" = stencil::jacobi_2d, 12, 320;
    run_seidel_2d "seidel_2d" = stencil::seidel_2d, 12, 180;
    run_heat_3d "heat_3d" = stencil::heat_3d, 7, 48;
    run_fdtd_2d "fdtd_2d" = stencil::fdtd_2d, 12, 300;
    run_floyd_warshall "floyd_warshall" = dynamic::floyd_warshall, 14, 360;
    run_nussinov "nussinov" = dynamic::nussinov, 24, 300;
    run_lcs "lcs" = dynamic::lcs, 48, 2500;
    run_bfs "bfs" = graph::bfs, 200, 100000;
    run_pagerank "pagerank" = graph::pagerank, 60, 20000;
    run_fib "fib" = classic::fib, 13, 33;
    run_ackermann "ackermann" = classic::ackermann, 3, 9;
    run_quicksort "quicksort" = classic::quicksort, 200, 200000;
    run_std_sort "std_sort" = classic::std_sort, 200, 150000;
    run_hash_map "hash_map" = classic::hash_map, 150, 100000;
    run_nqueens "nqueens" = classic::nqueens, 5, 12;
    run_mandelbrot "mandelbrot" = classic::mandelbrot, 12, 200;
    run_nbody "nbody" = classic::nbody, 30, 60000;
    run_fannkuch "fannkuch" = classic::fannkuch, 5, 9;
    run_binary_trees "binary_trees" = classic::binary_trees, 4, 16;
    run_sha256 "sha256" = sha256::hash_blocks, 4, 30000;
    run_coremark "coremark" = classic::coremark, 1, 160;
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["--list"] => {
            for kernel in KERNELS {
                println!("{} {} {}", kernel.name, kernel.test_size, kernel.bench_size);
            }
            ExitCode::SUCCESS
        }
        [name, size, repeat] => {
            let Some(kernel) = KERNELS.iter().find(|kernel| kernel.name == name) else {
                eprintln!("no kernel {name}; `kernels --list` names them all");
                return ExitCode::from(2);
            };
            let (Ok(size), Ok(repeat)) = (size.parse::<i32>(), repeat.parse::<i32>()) else {
                eprintln!("SIZE and REPEAT are 32-bit integers, not {size} and {repeat}");
                return ExitCode::from(2);
            };
            println!("{name} {size} {repeat} {:016x}", (kernel.run)(size, repeat));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: kernels NAME SIZE REPEAT | kernels --list");
            ExitCode::from(2)
        }
    }
}

fn repeated(kernel: Kernel, size: i32, repeat: i32) -> i64 {
    let size = usize::try_from(size).unwrap_or(0).max(2);
    let mut sum = 0;
    for _ in 0..repeat {
        // The compiler may not see that each round does the same.
        sum = data::mix(sum, black_box(kernel)(black_box(size)));
    }
    sum as i64
}
