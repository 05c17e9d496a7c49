use super::*;

fn guard(text: &str) -> Guard {
    text.parse().unwrap()
}

#[test]
fn a_policy_is_written_as_it_is_read() {
    assert_eq!(guard("/a.sock,read-only").policy.words(), ["read-only"]);
    assert_eq!(guard("unix:///a//b.sock,label=x=y,no-binds").path, PathBuf::from("/a/b.sock"));
    assert_eq!(guard("/a,label=x=y,no-binds").policy.to_string(), "no-binds,label=x=y");
    assert_eq!(
        guard("/a,confined").policy.to_string(),
        "no-privilege,no-binds,no-host-namespaces,no-devices"
    );
    let again = guard("/a,confined,label=k").policy;
    assert_eq!(Policy::of(again.words().iter().map(String::as_str)).unwrap(), again);
}

#[test]
fn what_is_no_policy_is_refused() {
    let told = |text: &str| text.parse::<Guard>().unwrap_err().message;
    assert!(told("/a").contains("the whole machine"));
    assert!(told("/a,readonly").contains("\"readonly\" is no rule"));
    assert!(told("/a,label=").contains("KEY or KEY=VALUE"));
    assert!(told("/a,label=a b").contains("KEY or KEY=VALUE"));
    assert!(told("/a,label=a,label=b").contains("one label"));
    assert!(told("/a,label=name=x").contains("org.example.name"));
    for path in ["a.sock", "", "/a/../b", "/a/"] {
        assert!(told(&format!("{path},read-only")).contains("absolute"), "{path}");
    }
}

#[test]
fn a_rule_brings_along_what_it_is_nothing_without() {
    let guard = guard("/a,no-binds");
    assert!(guard.policy.has(Rule::NoPrivilege) && !guard.policy.has(Rule::NoDevices));
    let told = guard.refuse(Rule::NoPrivilege, "x").message;
    assert_eq!(
        told,
        "x: refused by the rule no-privilege of the socket /a (it has no-binds, which is nothing without)"
    );
    assert!(!self::guard("/a,read-only,label=x").policy.has(Rule::NoPrivilege));
}

#[test]
fn a_label_is_seen_by_its_key_or_with_its_value() {
    let labels = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    for (text, seen) in [("k", true), ("k=v", true), ("k=", false), ("k=w", false), ("l", false)] {
        assert_eq!(guard(&format!("/a,label={text}")).policy.sees(&labels), seen, "{text}");
    }
}

#[test]
fn a_name_that_may_begin_an_id_is_pinned() {
    assert_eq!(pinned("cafe", "sha256:1"), "sha256:1");
    assert_eq!(pinned("sha256:cafe", "sha256:1"), "sha256:1");
    assert_eq!(pinned("busybox", "sha256:1"), "busybox");
}
