//! What is kept where, and what goes on the way to the daemon.

use std::fs;

use super::*;

/// A folder with this configuration.
fn folder(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), text).unwrap();
    folder
}

fn content(folder: &tempfile::TempDir) -> Value {
    serde_json::from_slice(&fs::read(folder.path().join("config.json")).unwrap()).unwrap()
}

fn someone(server: &str) -> AuthConfig {
    AuthConfig {
        username: "me".to_owned(),
        password: "p:w".to_owned(),
        server_address: server.to_owned(),
        ..AuthConfig::default()
    }
}

#[test]
fn kept_in_the_file_and_found_again() {
    let folder = folder(r#"{"auths":{"a.example":{"email":"e","identitytoken":"old"}},"other":1}"#);
    let credentials = Credentials::of(folder.path());
    credentials.store(&someone("a.example")).unwrap();
    assert_eq!(
        content(&folder),
        json!({"auths": {"a.example": {"email": "e", "auth": "bWU6cDp3"}}, "other": 1})
    );
    assert!(credentials.get("a.example").unwrap().unwrap() == someone("a.example"));
    assert!(credentials.get("b.example").unwrap().is_none());
    let token =
        AuthConfig { password: String::new(), identity_token: "t".to_owned(), ..someone("a.example") };
    credentials.store(&token).unwrap();
    assert_eq!(
        content(&folder)["auths"]["a.example"],
        json!({"email": "e", "auth": "bWU6", "identitytoken": "t"})
    );
    assert!(credentials.get("a.example").unwrap().unwrap() == token);
}

#[test]
fn an_old_address_is_the_host_s() {
    let folder = folder(r#"{"auths":{"https://a.example:5000/v1/":{"auth":"bWU6cDp3"}}}"#);
    let found = Credentials::of(folder.path()).get("a.example:5000").unwrap().unwrap();
    assert!(found == someone("a.example:5000"));
}

#[test]
fn forgotten_under_all_names() {
    let folder = folder(r#"{"auths":{"https://r":{"auth":"bWU6cDp3"},"q":{}}}"#);
    let credentials = Credentials::of(folder.path());
    let names = ["r".to_owned(), "https://r".to_owned()];
    assert!(credentials.erase(&names).unwrap());
    assert_eq!(content(&folder), json!({"auths": {"q": {}}}));
    assert!(!credentials.erase(&names).unwrap());
}

#[test]
fn what_is_wrong_is_told_without_the_secret() {
    let secret = "c2VjcmV0";
    for text in [
        format!(r#"{{"auths":{{"r":{{"auth":"{secret}"}}}}}}"#),
        format!(r#"{{"auths":{{"r":{{"auth":"{secret}!"}}}}}}"#),
    ] {
        let folder = folder(&text);
        let error = Credentials::of(folder.path()).get("r").err().unwrap().to_string();
        assert!(!error.contains(secret) && !error.contains("secret"), "{error}");
    }
    let folder = folder(r#"{"auths":[1]}"#);
    assert!(Credentials::of(folder.path()).store(&someone("r")).is_err());
    assert_eq!(content(&folder), json!({"auths": [1]}));
}

#[test]
fn a_helper_is_a_name() {
    for helper in ["../x", "/bin/sh"] {
        let folder = folder(&json!({"credsStore": helper}).to_string());
        assert!(Credentials::of(folder.path()).get("r").err().unwrap().to_string().contains("no path"));
    }
}

#[test]
fn the_header_is_dockers() {
    assert_eq!(AuthConfig::default().header(), "e30=");
    let decoded = URL_SAFE.decode(someone("r").header()).unwrap();
    assert_eq!(
        String::from_utf8(decoded).unwrap(),
        r#"{"username":"me","password":"p:w","serveraddress":"r"}"#
    );
}

#[test]
fn a_build_is_handed_all() {
    let folder = folder(r#"{"auths":{"r":{"auth":"bWU6cDp3"},"q":{}}}"#);
    let all = Credentials::of(folder.path()).all().unwrap();
    assert_eq!(all["r"], json!({"username": "me", "password": "p:w", "serveraddress": "r"}));
}

/// Stores credentials in a configuration as somebody wrote it: what is found then is what was stored, and what is not understood
/// stays.
fn stored_into(folder: &std::path::Path, text: &[u8]) -> String {
    fs::write(folder.join("config.json"), text).unwrap();
    let credentials = Credentials::of(folder);
    let before = match credentials.0.read() {
        Ok(before) => before,
        Err(error) => return error.to_string(),
    };
    for server in before.get("auths").and_then(Value::as_object).into_iter().flatten() {
        if let Err(error) = AuthConfig::from_entry(server.0, server.1) {
            // Neither a password nor what might be one.
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
    // A helper would be a program.
    match keeper(&before, "a.example") {
        Ok(None) => {}
        Ok(Some(_)) => return "a helper".to_owned(),
        Err(error) => return error.to_string(),
    }
    let found = of_file(&before, "a.example");
    if let Err(error) = credentials.store(&someone("a.example")) {
        assert_eq!(fs::read(folder.join("config.json")).unwrap(), text, "changed, and refused");
        return error.to_string();
    }
    assert!(credentials.get("a.example").unwrap().unwrap() == someone("a.example"));
    let after = credentials.0.read().unwrap();
    for (key, value) in before.iter().filter(|(key, _)| *key != "auths") {
        assert_eq!(after.get(key), Some(value), "{key}");
    }
    format!(
        "stored, before: {}",
        found.map_or("malformed", |found| if found.is_some() { "one" } else { "none" })
    )
}

#[test]
fn a_configuration_of_any_kind() {
    let target = hull_fuzz::Target {
        name: "config-json",
        about: "the client's config.json",
        seeds: || {
            [
                r#"{"auths":{"a.example":{"auth":"bWU6c2VjcmV0","identitytoken":"secret"},"https://b.example/v1/":{"username":"u"}}}"#,
                r#"{"auths":{},"credsStore":"pass","credHelpers":{"a.example":"","b.example":"x"},"psFormat":"{{.ID}}","n":1.50}"#,
                "{}",
                "",
            ]
            .map(|text| text.as_bytes().to_vec())
            .to_vec()
        },
        words: &[
            "\"auths\":",
            "\"auth\":",
            "\"a.example\":",
            "\"credsStore\":",
            "\"credHelpers\":",
            "\"username\":",
            "\"identitytoken\":",
            "null",
            "{}",
            "[]",
            "\"\"",
            "{",
            "}",
            ",",
            ":",
            "../",
            "bWU6",
            "1e400",
            "\\u0000",
        ],
        block: 1,
        repair: hull_fuzz::as_it_is,
        prepare: || {
            let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
            Box::new(move |text| stored_into(folder.path(), text))
        },
    };
    hull_fuzz::briefly(&target);
}
