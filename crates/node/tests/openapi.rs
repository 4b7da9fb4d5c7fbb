//! The description of the HTTP API that the repository carries is the one of the code.

use std::path::Path;

#[test]
fn the_description_is_the_one_in_the_repository() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let text = dunlin_node::openapi();
    if std::env::var_os("DUNLIN_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "docs/openapi.json is not what the code says; run this test with DUNLIN_BLESS=1");
}

#[test]
fn every_verb_has_its_request() {
    let text = dunlin_node::openapi();
    let api: serde_json::Value = serde_json::from_str(&text).unwrap();
    let verbs = [
        ("/v1/services", "post"),
        ("/v1/services", "get"),
        ("/v1/services/{name}", "get"),
        ("/v1/services/{name}", "delete"),
        ("/v1/services/{name}/logs", "get"),
        ("/v1/services/{name}/stop", "post"),
        ("/v1/services/{name}/start", "post"),
        ("/v1/services/{name}/migrate", "post"),
        ("/v1/services/{name}/checkpoint", "post"),
        ("/v1/services/{name}/restore", "post"),
        ("/v1/jobs", "get"),
        ("/v1/jobs/{id}/watch", "get"),
        ("/v1/jobs/{id}/abort", "post"),
        ("/v1/nodes", "get"),
    ];
    for (path, method) in verbs {
        let operation = &api["paths"][path][method];
        assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{method} {path}: {operation}");
    }
}
