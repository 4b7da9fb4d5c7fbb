//! Goal: any text is a policy or an error with a place, without a panic; what is a policy can be linted, explained
//! and compared, survives being written again, and never accepts claims whose evidence was not bound.
//!
//! Method: the text is signed here with a known key, so that everything behind the signature is reached.

#![no_main]

use dunlin_attest::{
    Endorsements, PlatformId, Policy, PolicyDocument, SigningKey, SimRoots, SimStatement, Verifier, diff, explain, lint,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let key = SigningKey::from_bytes(&[1; 32]).unwrap();
    let _ = Policy::verify(data, "shop", &[key.verifying_key()], None);
    let Ok(text) = core::str::from_utf8(data) else { return };
    let Ok(document) = PolicyDocument::parse(text) else { return };
    let findings = lint::lint(&document);
    assert!(!explain::explain(&document).is_empty());
    assert!(diff::diff(&document, &document).unwrap().is_empty());
    let outcome = Policy::sign(text, &key);
    let contradicts = findings.iter().any(|finding| finding.severity == lint::Severity::Error);
    assert_eq!(outcome.is_err(), contradicts, "{findings:?}");
    let Ok(object) = outcome else { return };
    let policy = Policy::verify(&object, &document.service, &[key.verifying_key()], None).unwrap();
    let statement = SimStatement {
        platform: PlatformId::sim("laptop").unwrap(),
        runtime: policy.hash(),
        module: policy.hash(),
        policy: policy.hash(),
    };
    let context = dunlin_attest::BindingContext::from_cbor(data);
    let roots = SimRoots { keys: vec![key.verifying_key()], ..SimRoots::default() };
    if let Ok(context) = context {
        let evidence = statement.evidence(&context.report_data(), &key).unwrap();
        let claims = Verifier::inspect(&evidence, &Endorsements::default(), 0, &roots).unwrap();
        assert!(!policy.preview(&claims, 0).is_accepted());
    }
});
