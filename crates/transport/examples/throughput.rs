//! How many bytes a session carries in a second: `cargo run --release -p dunlin-transport --example throughput`.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use dunlin_identity::{Issuer, PrivateKey};
use dunlin_transport::{Error, Roots, Session, TlsIdentity, accept, connect};

const TOTAL: usize = 4 << 30;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let hour = Duration::from_secs(3600);
    let [root, node, a, b] = [(); 4].map(|()| PrivateKey::generate());
    let provider = Issuer::provider("acme", root?, hour)?;
    let node = node?;
    let machine = Issuer::new(node.clone(), provider.certify_node("node", node.public(), hour)?)?;
    let identity = |key: PrivateKey| -> Result<TlsIdentity, Box<dyn std::error::Error>> {
        Ok(TlsIdentity::new(machine.certify_keep(key.public(), hour)?, key.to_pkcs8()?.to_vec())?)
    };
    let (a, b) = (identity(a?)?, identity(b?)?);
    let mut roots = Roots::new();
    roots.add("acme", &provider.chain()[0])?;
    let (near, far) = UnixStream::pair()?;
    let (asking, asked) = thread::scope(|scope| -> (Result<Session, Error>, _) {
        let asked = scope.spawn(|| accept(far, &b, &roots, None));
        (connect(near, &a, &roots, None), asked.join())
    });
    let (mut a, mut b) = (asking?, asked.map_err(|_| "the accepting side panicked")??);
    let start = Instant::now();
    let writing = thread::spawn(move || {
        let frame = vec![7; 1 << 20];
        (0..TOTAL / frame.len()).try_for_each(|_| a.writer.write_all(&frame)).and_then(|()| a.writer.finish())
    });
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        match b.reader.read(&mut buffer)? {
            0 => break,
            read => total += read,
        }
    }
    writing.join().map_err(|_| "the writing side panicked")??;
    let rate = total as f64 / start.elapsed().as_secs_f64() / 1e9;
    println!("one direction over a Unix stream: {rate:.2} GB/s ({total} bytes)");
    Ok(())
}
