//! What must not compile: asking for claims without the report data that they must be bound to, and
//! giving production code roots of one's own. Each program has a twin that differs in nothing but the
//! mistake and does compile, so that it cannot fail for another reason.

#[test]
fn e28_appraise_cannot_be_called_without_expected_report_data() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/e28_with_report_data.rs");
    cases.compile_fail("tests/ui/e28_*_refused.rs");
}

#[test]
fn p2_production_roots_take_no_root_from_outside() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/p2_vendor_roots.rs");
    cases.compile_fail("tests/ui/p2_*_refused.rs");
}
