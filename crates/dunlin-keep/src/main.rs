//! The program that holds one service instance. It must never do anything but serve the node that started it: all that
//! it does is in the crate `dunlin-keep`.

use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::process::ExitCode;

use dunlin_base::with_causes;
use dunlin_keep::Confinement;
use dunlin_keep_link::Channel;

const USAGE: &str = "dunlin-keep is started by a node: dunlin-keep --link N, with its end of the link as descriptor N";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let number = match (arguments.next().as_deref(), arguments.next(), arguments.next()) {
        (Some("--link"), Some(number), None) => number.parse::<RawFd>().ok().filter(|number| *number >= 0),
        _ => None,
    };
    let Some(number) = number else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    // A keep of which one thread is lost is no keep: it ends, and starts again from what it committed.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        std::process::abort();
    }));
    let channel = match Channel::new(link(number)) {
        Ok(channel) => channel,
        Err(error) => return fail(&error),
    };
    match dunlin_keep::serve(channel, Confinement::full()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// The descriptor that the node passed on.
#[expect(unsafe_code, reason = "a number is all that a process learns of the descriptors that it was started with")]
fn link(number: RawFd) -> OwnedFd {
    // SAFETY: called once, before anything else has opened or taken a descriptor, so that nothing else owns this one. A
    // number that is no descriptor is refused by the first call that uses it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("dunlin-keep: {}", with_causes(error));
    ExitCode::from(70)
}
