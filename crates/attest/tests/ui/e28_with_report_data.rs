use dunlin_attest::{BindingContext, Claims, Endorsements, Evidence, TrustRoots, Verifier, VerifyError};

fn session(evidence: &Evidence, endorsements: &Endorsements, context: &BindingContext) -> Result<Claims, VerifyError> {
    Verifier::appraise(evidence, endorsements, &context.report_data(), 0, &TrustRoots::vendor())
}

fn main() {
    let _ = session;
}
