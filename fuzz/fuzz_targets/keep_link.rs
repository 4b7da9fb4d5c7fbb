//! Goal: packets between a node and a keep end in a value or an error, without a panic and without allocating by a
//! length that they declare; what is read is written back as the same bytes; and the gate admits rising orders only.
//!
//! Method: the first byte says how many descriptors came. The rest is read as an order and as a report, and again with
//! a header that is put right, so that the decoders are reached.

#![no_main]

use dunlin_keep_link::{Gate, OrderId, Packet, Versions};
use libfuzzer_sys::fuzz_target;

fn read(bytes: &[u8], given: usize) {
    if let Ok(order) = Packet::read_order(bytes, given, VERSION) {
        assert_eq!(order.descriptors(), given);
        assert_eq!(
            Packet::order(VERSION, &order).expect("it was read").bytes(),
            bytes,
            "{} has two encodings",
            order.name()
        );
        let mut gate = Gate::new();
        if gate.admit(&order).is_ok() {
            assert!(gate.admit(&order).is_err(), "an identity comes once");
            assert!(order.id() >= Some(OrderId(0)));
        }
    }
    if let Ok(report) = Packet::read_report(bytes, given, Some(VERSION)) {
        let packet = Packet::report(VERSION, &report).expect("it was read");
        assert_eq!(packet.bytes(), bytes, "{} has two encodings", report.name());
    }
}

const VERSION: u16 = Versions::SUPPORTED.newest;

fuzz_target!(|data: &[u8]| {
    let Some((given, bytes)) = data.split_first() else { return };
    read(bytes, usize::from(*given));
    let Some((kind, body)) = bytes.split_first() else { return };
    let packet = [&[1, 0, *kind, *given], body].concat();
    read(&packet, usize::from(*given));
});
