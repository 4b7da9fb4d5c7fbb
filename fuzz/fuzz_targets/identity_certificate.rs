//! Goal: certificates and keys from other machines end in names, a key or an error, without a panic; and a key is written
//! back as it was read.
//!
//! Method: the input is read as each of them; then as changes to a genuine certificate, at the place that its first bytes
//! name, so that the inside of one is reached.

#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use dunlin_identity::{Issuer, Names, PrivateKey, PublicKey};
use libfuzzer_sys::fuzz_target;

static GENUINE: LazyLock<(PrivateKey, Vec<u8>)> = LazyLock::new(|| {
    let key = PrivateKey::generate().expect("a key");
    let hour = Duration::from_secs(3600);
    let provider = Issuer::provider("acme", PrivateKey::generate().expect("a key"), hour).expect("a root");
    let chain = provider.certify_node("node", key.public(), hour).expect("a certificate");
    (key, chain[0].clone())
});

fn read(bytes: &[u8]) {
    let _ = Names::of(bytes);
    let _ = Issuer::new(GENUINE.0.clone(), vec![bytes.to_vec()]);
    let _ = PrivateKey::from_pkcs8(bytes);
    if let Ok(key) = PublicKey::from_spki(bytes) {
        assert!(PublicKey::from_spki(key.spki()).is_ok_and(|again| again.thumbprint() == key.thumbprint()));
        assert!(!key.verify(b"message", bytes), "nobody has signed");
    }
}

fuzz_target!(|data: &[u8]| {
    read(data);
    let Some((at, change)) = data.split_first_chunk::<2>() else { return };
    let mut bytes = GENUINE.1.clone();
    let at = usize::from(u16::from_le_bytes(*at)) % bytes.len();
    let end = (at + change.len()).min(bytes.len());
    bytes.splice(at..end, change.iter().copied());
    read(&bytes);
});
