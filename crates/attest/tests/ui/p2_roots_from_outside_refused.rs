use dunlin_attest::{PolicyDocument, Roots, SimRoots, TrustRoots};

struct Mine;

impl Roots for Mine {}

fn roots(document: &PolicyDocument, sim: SimRoots) {
    let mut roots = TrustRoots::vendor();
    roots.amd.clear();
    let _ = TrustRoots::default();
    let _ = TrustRoots::from(sim);
    let _ = TrustRoots::for_policy(document);
}

fn main() {
    let _ = roots;
}
