use dunlin_attest::{Policy, SimRoots, TrustRoots};

fn roots(policy: &Policy) -> (TrustRoots, TrustRoots, SimRoots) {
    (TrustRoots::vendor(), TrustRoots::for_policy(policy), SimRoots::default())
}

fn main() {
    let _ = roots;
}
