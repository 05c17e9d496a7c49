//! Registries that want tokens, and what they are told of who asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hull_tests::registry::{Answer, Asked, Registry};
use hull_tests::{Daemon, Engine, private_network};
use serde_json::{Value, json};

const MIB: usize = 1 << 20;

/// Writes the credentials that the client has for a registry.
fn log_in(daemon: &Daemon, registry: &Registry, credentials: &Value) {
    let folder = daemon.dir().join("home/.docker");
    std::fs::create_dir_all(&folder).expect("a folder");
    let auths = json!({ "auths": { registry.address.clone(): credentials } });
    std::fs::write(folder.join("config.json"), auths.to_string()).expect("a file");
}

/// A whim that wants a token which `accepts` takes, and gets it from `gives`.
fn wants_tokens(
    registry: &Registry,
    accepts: impl Fn(&str) -> bool + Send + Sync + 'static,
    gives: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
) {
    registry.misbehave(move |asked, answer| {
        if asked.path.starts_with("/token") {
            return gives(asked);
        }
        let token = asked.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        if token.is_some_and(&accepts) {
            return answer;
        }
        let host = asked.header("host").unwrap_or_default();
        let words = json!({ "errors": [{ "code": "UNAUTHORIZED", "message": "authentication required" }] });
        Answer::json(401, &words).with(
            "WWW-Authenticate",
            &format!("Bearer realm=\"http://{host}/token\",service=\"the registry\""),
        )
    });
}

#[test]
fn a_token_that_is_over_is_got_anew() {
    private_network();
    let registry = Registry::start();
    registry.image("1", &[MIB, MIB, MIB]);
    let given = Arc::new(AtomicU64::new(0));
    let used = AtomicU64::new(0);
    let newest = Arc::clone(&given);
    // Each holds for two requests.
    wants_tokens(
        &registry,
        move |token| {
            let is_newest = token == format!("token-{}", newest.load(Ordering::Relaxed));
            is_newest && used.fetch_add(1, Ordering::Relaxed) % 3 != 2
        },
        move |_| {
            let number = given.fetch_add(1, Ordering::Relaxed) + 1;
            Answer::json(200, &json!({ "access_token": format!("token-{number}"), "expires_in": 300 }))
        },
    );
    let daemon = Daemon::empty(Engine::Hull, &["--max-concurrent-downloads=1"]);
    daemon.ok(&["pull", "-q", &format!("{}/a:1", registry.address)]);
    let tokens = registry.asked().iter().filter(|asked| asked.path.starts_with("/token")).count();
    assert!(tokens > 1, "one token was enough");
}

#[test]
fn a_password_goes_to_the_token_server_and_not_to_the_registry() {
    private_network();
    let registry = Registry::start();
    registry.image("1", &[1000]);
    wants_tokens(
        &registry,
        |token| token == "good",
        |asked| match asked.header("authorization") {
            // base64 of someone:secret
            Some("Basic c29tZW9uZTpzZWNyZXQ=") => Answer::json(200, &json!({ "token": "good" })),
            _ => Answer::json(401, &json!({ "details": "incorrect username or password" })),
        },
    );
    let daemon = Daemon::empty(Engine::Hull, &[]);
    let image = format!("{}/a/b:1", registry.address);
    let refused = daemon.hull(&["pull", &image]);
    assert!(refused.stderr.contains("incorrect username or password"), "{refused:?}");
    log_in(&daemon, &registry, &json!({ "auth": "c29tZW9uZTpzZWNyZXQ=" }));
    daemon.ok(&["pull", "-q", &image]);
    for asked in registry.asked() {
        let basic = asked.header("authorization").is_some_and(|value| value.starts_with("Basic"));
        assert!(!basic || asked.path.starts_with("/token"), "{asked:?}");
    }
    let asked = registry.asked();
    let token =
        asked.iter().rev().find(|asked| asked.path.starts_with("/token")).expect("a token was asked for");
    assert_eq!(token.path, "/token?service=the%20registry&scope=repository:a/b:pull&account=someone");
}

#[test]
fn a_refresh_token_is_sent_in_a_form() {
    private_network();
    let registry = Registry::start();
    registry.image("1", &[1000]);
    wants_tokens(
        &registry,
        |token| token == "good",
        |asked| {
            let form = String::from_utf8_lossy(&asked.body).into_owned();
            match asked.method == "POST"
                && form.contains("grant_type=refresh_token&refresh_token=re%2Bfresh&")
            {
                true => Answer::json(200, &json!({ "access_token": "good" })),
                false => Answer::json(400, &json!({ "details": form })),
            }
        },
    );
    let daemon = Daemon::empty(Engine::Hull, &[]);
    // base64 of `<token>:`, as Docker's client keeps it.
    log_in(&daemon, &registry, &json!({ "auth": "PHRva2VuPjo=", "identitytoken": "re+fresh" }));
    daemon.ok(&["pull", "-q", &format!("{}/a:1", registry.address)]);
    let asked = registry.asked();
    let token = asked.iter().find(|asked| asked.path.starts_with("/token")).expect("a token was asked for");
    assert!(String::from_utf8_lossy(&token.body).contains("scope=repository:a:pull"));
    assert!(token.header("authorization").is_none(), "{token:?}");
}

#[test]
fn a_token_for_more_than_was_asked_is_not_wanted() {
    private_network();
    let registry = Registry::start();
    registry.image("1", &[1000]);
    registry.misbehave(|asked, answer| {
        if asked.path.starts_with("/token") {
            return Answer::json(200, &json!({ "token": "good" }));
        }
        if asked.header("authorization") == Some("Bearer good") {
            return answer;
        }
        let host = asked.header("host").unwrap_or_default();
        let scope = "repository:of/others:pull,push,delete";
        Answer::json(401, &json!({})).with(
            "WWW-Authenticate",
            &format!("Bearer realm=\"http://{host}/token\",service=\"s\",scope=\"{scope}\""),
        )
    });
    let daemon = Daemon::empty(Engine::Hull, &[]);
    daemon.ok(&["pull", "-q", &format!("{}/a:1", registry.address)]);
    for asked in registry.asked().iter().filter(|asked| asked.path.starts_with("/token")) {
        assert_eq!(asked.path, "/token?service=s&scope=repository:a:pull");
    }
}

#[test]
fn a_token_is_tried_before_a_login_succeeds() {
    private_network();
    let registry = Registry::start();
    // As there are: whoever is wrong gets one that is good for nothing.
    wants_tokens(
        &registry,
        |token| token == "good",
        |asked| match asked.header("authorization") {
            Some("Basic c29tZW9uZTpzZWNyZXQ=") => Answer::json(200, &json!({ "token": "good" })),
            _ => Answer::json(200, &json!({ "token": "anonymous" })),
        },
    );
    let daemon = Daemon::empty(Engine::Hull, &[]);
    let login = |password: &str| daemon.hull(&["login", "-u", "someone", "-p", password, &registry.address]);
    let wrong = login("wrong");
    assert!(wrong.status == 1 && wrong.stderr.contains("failed with status: 401"), "{wrong:?}");
    assert!(!daemon.dir().join("home/.docker/config.json").exists(), "it is kept");
    let right = login("secret");
    assert!(right.stdout.contains("Login Succeeded"), "{right:?}");
}
