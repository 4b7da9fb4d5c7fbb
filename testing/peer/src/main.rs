//! `dunlin-peer MODULE [--dir HOST::GUEST] [-- ARGS...]`: runs a program in Wasmtime's WASI preview 1 and writes on
//! standard error how many nanoseconds its `_start` took.

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use dunlin_peer::{Offer, Peer, engine, on_stack};
use wasmtime::Module;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (mut module, mut directories, mut rest) = (None, Vec::new(), Vec::new());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--dir" => {
                let value = args.next().ok_or("--dir needs HOST::GUEST")?;
                let (host, guest) = value.split_once("::").ok_or("--dir needs HOST::GUEST")?;
                directories.push((PathBuf::from(host), guest.to_owned()));
            }
            "--" => rest.extend(args.by_ref()),
            _ if module.is_none() => module = Some(arg),
            _ => return Err(format!("what is {arg}?").into()),
        }
    }
    let path = module.ok_or("usage: dunlin-peer MODULE [--dir HOST::GUEST] [-- ARGS...]")?;
    let engine = engine()?;
    let module = Module::from_file(&engine, &path)?;
    rest.insert(0, path);
    let directories: Vec<(&Path, &str, bool)> =
        directories.iter().map(|(host, guest)| (host.as_path(), guest.as_str(), true)).collect();
    let mut peer = Peer::new(&engine, &module, &Offer { args: &rest, stdin: &[], directories: &directories })?;
    let start = Instant::now();
    let code = on_stack(|| peer.run())?;
    let time = start.elapsed();
    std::io::stdout().write_all(&peer.output())?;
    eprintln!("{}", time.as_nanos());
    Ok(ExitCode::from(code as u8))
}
