//! Reaches every part of the crate, so that a build of it for WebAssembly shows what the crate imports.
//! `tests/no_imports.rs` builds it and looks.

use dunlin_attest::{
    BindingContext, Endorsements, Evidence, Policy, SigningKey, SimRoots, TrustRoots, Verifier, diff, explain, lint,
    token,
};

/// Does something with every parser, verifier and writer; the result depends on all of them.
pub fn probe(bytes: &[u8], now: u64) -> usize {
    let mut seen = 0;
    let endorsements = Endorsements::from_cbor(bytes).unwrap_or_default();
    let key = SigningKey::from_bytes(&[1; 32]);
    let (Ok(key), Ok(binding)) = (key, BindingContext::from_cbor(bytes)) else { return 0 };
    for evidence in [Evidence::sgx_from_buffer(bytes), Evidence::tdx_from_buffer(bytes), Evidence::Snp(bytes.to_vec())]
    {
        let outcome = Verifier::appraise(&evidence, &endorsements, &binding.report_data(), now, &TrustRoots::vendor());
        seen += format!("{outcome:?}").len();
    }
    if let (Ok(evidence), Ok(policy)) =
        (Evidence::from_cbor(bytes), Policy::verify(bytes, "", &[key.verifying_key()], None))
    {
        let roots = SimRoots { keys: vec![key.verifying_key()], ..SimRoots::default() };
        if let Ok(claims) = Verifier::inspect(&evidence, &endorsements, now, &roots) {
            let appraisal = policy.preview(&claims, now);
            seen += appraisal.reasons().len() + token::issue(&appraisal, "", now, &key).map_or(0, |token| token.len());
        }
        let document = policy.document();
        seen += lint::lint(document).len() + explain::explain(document).len();
        seen += diff::diff(document, document).map_or(0, |changes| changes.len());
    }
    seen
}

fn main() {
    let bytes: Vec<u8> = (0..64).collect();
    std::process::exit(i32::from(probe(std::hint::black_box(&bytes), std::hint::black_box(0)) > 1_000_000));
}
