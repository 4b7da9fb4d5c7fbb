use dunlin_attest::{Claims, Endorsements, Evidence, TrustRoots, Verifier, VerifyError};

fn session(evidence: &Evidence, endorsements: &Endorsements) -> Result<Claims, VerifyError> {
    Verifier::appraise(evidence, endorsements, 0, &TrustRoots::vendor())
}

fn main() {
    let _ = session;
}
