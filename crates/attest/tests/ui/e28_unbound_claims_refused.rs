use dunlin_attest::{Appraisal, AppraisalContext, Policy, UnboundClaims};

fn accept(policy: &Policy, claims: &UnboundClaims, context: &AppraisalContext<'_>) -> Appraisal {
    policy.appraise(claims, context)
}

fn main() {
    let _ = accept;
}
