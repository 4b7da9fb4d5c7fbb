//! How fast chunks are sealed and opened, beside the digest that every chunk needs anyway:
//! `cargo run --release -p dunlin-seal --example seal_throughput`.

use std::hint::black_box;
use std::time::Instant;

use dunlin_base::Digest;
use dunlin_seal::{ServiceRoot, VolumeSeal};
use dunlin_store::{ChunkKind, Sealing as _};

fn main() -> Result<(), dunlin_seal::Error> {
    let seal = VolumeSeal::new(&ServiceRoot::generate()?.epoch_key([1; 16], 1), None);
    for size in [256, 4096, 65_536, 1 << 20] {
        let plain = vec![7; size];
        let sealed = seal.seal(ChunkKind::Data, b"volume", &plain).into_owned();
        let rounds = ((256 << 20) / size).min(200_000);
        let rate = |what: &dyn Fn()| {
            let began = Instant::now();
            (0..rounds).for_each(|_| what());
            (rounds * size) as f64 / began.elapsed().as_secs_f64() / 1e6
        };
        let digest = rate(&|| {
            black_box(Digest::of(black_box(&plain)));
        });
        let sealing = rate(&|| drop(black_box(seal.seal(ChunkKind::Data, b"volume", black_box(&plain)))));
        let opening = rate(&|| drop(black_box(seal.open(ChunkKind::Data, b"volume", black_box(&sealed[..]).into()))));
        println!("{size:>8} bytes: digest {digest:.0} MB/s, seal {sealing:.0} MB/s, open {opening:.0} MB/s");
    }
    Ok(())
}
