//! The service on TCP connections.

use std::time::{Duration, Instant};

use net::{Peer, Service};

use crate::answer;
use crate::store::Store;

/// Output beyond which a client gets no more answers until it has read some.
const ENOUGH: usize = 1 << 20;

impl Service for Store {
    type State = ();

    fn step(&mut self, peer: &mut Peer, (): &mut ()) {
        let (used, open) = answer(self, peer.input.bytes(), peer.output.sink(), ENOUGH);
        peer.input.consume(used);
        peer.done = !open;
    }

    fn patience(&self) -> Option<Duration> {
        self.next_expiry().map(|moment| moment.saturating_duration_since(Instant::now()))
    }

    fn tick(&mut self) {
        self.forget_expired();
    }
}
