//! What trust starts from. [`TrustRoots`] holds the vendors' roots that are compiled in, and can be given
//! nothing but the providers of a policy whose owner's signature was checked. [`SimRoots`] can be given
//! anything, and whatever hangs under it is class `sim`.

use crate::claims::Class;
use crate::cose::VerifyingKey;
use crate::policy::sign::Policy;

/// What everything simulated is labelled with.
pub(crate) const SIM_LABEL: &str = "SIMULATED: this proves nothing about the machine or its operator";

/// The product lines of AMD whose roots are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AmdProduct {
    /// 3rd generation EPYC.
    Milan,
    /// 4th generation EPYC, with Bergamo and Siena.
    Genoa,
    /// 5th generation EPYC.
    Turin,
}

impl AmdProduct {
    /// AMD's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }
}

/// A pinned root of AMD's hierarchy, in DER.
#[derive(Debug, Clone)]
pub(crate) struct AmdRoot {
    pub(crate) product: AmdProduct,
    pub(crate) ark: Vec<u8>,
    pub(crate) ask: Option<Vec<u8>>,
}

/// The roots that a production build trusts.
#[derive(Debug, Clone)]
pub struct TrustRoots {
    amd: Vec<AmdRoot>,
    providers: Vec<(String, VerifyingKey)>,
}

impl TrustRoots {
    /// The vendors' roots, as compiled in. No provider is known, so no TPM can be verified.
    pub fn vendor() -> Self {
        let built_in = [
            (
                AmdProduct::Milan,
                &include_bytes!("../roots/amd/milan-ark.der")[..],
                &include_bytes!("../roots/amd/milan-ask.der")[..],
            ),
            (
                AmdProduct::Genoa,
                include_bytes!("../roots/amd/genoa-ark.der"),
                include_bytes!("../roots/amd/genoa-ask.der"),
            ),
            (
                AmdProduct::Turin,
                include_bytes!("../roots/amd/turin-ark.der"),
                include_bytes!("../roots/amd/turin-ask.der"),
            ),
        ];
        let amd = built_in.map(|(product, ark, ask)| AmdRoot { product, ark: ark.to_vec(), ask: Some(ask.to_vec()) });
        Self { amd: amd.into(), providers: Vec::new() }
    }

    /// The vendors' roots and the providers that the owner names.
    pub fn for_policy(policy: &Policy) -> Self {
        Self { providers: policy.provider_keys(), ..Self::vendor() }
    }
}

/// Roots for simulation and tests. Evidence that hangs under them is class `sim`, also when it has a
/// vendor's format.
#[derive(Debug, Clone, Default)]
pub struct SimRoots {
    /// Keys of simulated platforms.
    pub keys: Vec<VerifyingKey>,
    /// Providers and the keys that sign their platform statements.
    pub providers: Vec<(String, VerifyingKey)>,
    /// Self-made roots with AMD's shape: product line and certificate in DER.
    pub amd: Vec<(AmdProduct, Vec<u8>)>,
    /// A self-made root with the shape of Intel's, in DER.
    pub intel: Option<Vec<u8>>,
}

/// Either kind of roots. There is no third.
pub trait Roots: sealed::Sealed {}

impl Roots for TrustRoots {}
impl Roots for SimRoots {}

pub(crate) mod sealed {
    use super::{AmdRoot, Class, VerifyingKey};

    pub trait Sealed {
        /// The class of evidence whose platform alone would give `genuine`.
        #[doc(hidden)]
        fn class(&self, genuine: Class) -> Class;
        /// What a person must see next to claims under these roots.
        #[doc(hidden)]
        fn label(&self) -> Option<String>;
        #[doc(hidden)]
        fn name(&self) -> &'static str;
        #[doc(hidden)]
        fn providers(&self) -> &[(String, VerifyingKey)];
        #[doc(hidden)]
        fn sim_keys(&self) -> &[VerifyingKey];
        #[doc(hidden)]
        fn intel(&self) -> Option<IntelRoot<'_>>;
        #[doc(hidden)]
        #[allow(private_interfaces, reason = "the trait is sealed, nobody outside can name it")]
        fn amd(&self) -> Vec<AmdRoot>;
    }

    #[derive(Debug)]
    pub enum IntelRoot<'a> {
        Production,
        Test(&'a [u8]),
    }
}

impl sealed::Sealed for TrustRoots {
    fn class(&self, genuine: Class) -> Class {
        genuine
    }

    fn label(&self) -> Option<String> {
        None
    }

    fn name(&self) -> &'static str {
        "the vendors' roots"
    }

    fn providers(&self) -> &[(String, VerifyingKey)] {
        &self.providers
    }

    fn sim_keys(&self) -> &[VerifyingKey] {
        &[]
    }

    fn intel(&self) -> Option<sealed::IntelRoot<'_>> {
        Some(sealed::IntelRoot::Production)
    }

    #[allow(private_interfaces, reason = "the trait is sealed, nobody outside can name it")]
    fn amd(&self) -> Vec<AmdRoot> {
        self.amd.clone()
    }
}

impl sealed::Sealed for SimRoots {
    fn class(&self, _genuine: Class) -> Class {
        Class::Sim
    }

    fn label(&self) -> Option<String> {
        Some(SIM_LABEL.to_owned())
    }

    fn name(&self) -> &'static str {
        "roots for simulation"
    }

    fn providers(&self) -> &[(String, VerifyingKey)] {
        &self.providers
    }

    fn sim_keys(&self) -> &[VerifyingKey] {
        &self.keys
    }

    fn intel(&self) -> Option<sealed::IntelRoot<'_>> {
        self.intel.as_deref().map(sealed::IntelRoot::Test)
    }

    #[allow(private_interfaces, reason = "the trait is sealed, nobody outside can name it")]
    fn amd(&self) -> Vec<AmdRoot> {
        self.amd.iter().map(|(product, ark)| AmdRoot { product: *product, ark: ark.clone(), ask: None }).collect()
    }
}
