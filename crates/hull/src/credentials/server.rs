//! Under which name a registry's credentials are kept.

/// The key of Docker Hub's credentials: its address of long ago, which every tool that reads the file knows.
pub const INDEX: &str = "https://index.docker.io/v1/";

/// Names by which Docker Hub is meant.
const HUB: &[&str] = &["docker.io", "index.docker.io", "registry-1.docker.io"];

/// The host, and its port, of an address that may be a URL.
pub fn host(address: &str) -> &str {
    let stripped = ["https://", "http://"].iter().find_map(|scheme| address.strip_prefix(scheme));
    let rest = stripped.unwrap_or(address);
    rest.split('/').next().unwrap_or(rest)
}

/// The key of the registry that was named; without a name, Docker Hub's.
pub fn key(address: Option<&str>) -> &str {
    match address.map(host) {
        None | Some("") => INDEX,
        Some(host) if HUB.contains(&host) => INDEX,
        Some(host) => host,
    }
}

/// The key of the registry that an image's name leads to.
pub fn of_image(name: &str) -> &str {
    match name.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => key(Some(first)),
        _ => INDEX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        for (address, expected) in [
            (None, INDEX),
            (Some(""), INDEX),
            (Some("docker.io"), INDEX),
            (Some(INDEX), INDEX),
            (Some("a.example"), "a.example"),
            (Some("https://a.example:5000/v2/"), "a.example:5000"),
            (Some("http://localhost"), "localhost"),
        ] {
            assert_eq!(key(address), expected, "{address:?}");
        }
    }

    #[test]
    fn registries_of_images() {
        for (name, expected) in [
            ("busybox", INDEX),
            ("user/a:1", INDEX),
            ("docker.io/a", INDEX),
            ("localhost/a", "localhost"),
            ("r:5000/a/b:1", "r:5000"),
            ("a.example/b@sha256:00", "a.example"),
        ] {
            assert_eq!(of_image(name), expected, "{name}");
        }
    }
}
