//! Volumes on servers: the kernel wants an address where a user writes a name, and secrets are in the options.

use std::net::{IpAddr, ToSocketAddrs};

use crate::{Error, Result};

/// The device and the words for the file system, with the server's address in the place of its name: in `addr=`, which
/// NFS cannot do without and gets from its device where it is missing, or in the device (`//server/share`).
///
/// # Errors
/// The server's name has no address.
pub(super) fn resolved(device: &str, data: &[String], kind: &str) -> Result<(String, Vec<String>)> {
    let mut data = data.to_vec();
    if !matches!(kind, "nfs" | "nfs4" | "cifs") {
        return Ok((device.to_owned(), data));
    }
    if let Some(word) = data.iter_mut().find(|word| word.starts_with("addr=")) {
        *word = format!("addr={}", address(&word["addr=".len()..])?);
        return Ok((device.to_owned(), data));
    }
    match server(device, kind) {
        Some(server) if kind == "cifs" => {
            let found = address(server)?;
            let found = if found.is_ipv6() { format!("[{found}]") } else { found.to_string() };
            Ok((device.replacen(server, &found, 1), data))
        }
        Some(server) => {
            data.push(format!("addr={}", address(server)?));
            Ok((device.to_owned(), data))
        }
        None => Ok((device.to_owned(), data)),
    }
}

/// The server in `server:/path`, `[::1]:/path` or `//server/share`.
fn server<'a>(device: &'a str, kind: &str) -> Option<&'a str> {
    let server = match kind {
        "cifs" => device.strip_prefix("//")?.split('/').next()?,
        _ if device.starts_with('[') => &device[..=device.find(']')?],
        // A path alone, as in Docker's examples, names the server in addr=.
        _ => device.split_once(":/")?.0,
    };
    (!server.is_empty()).then_some(server)
}

fn address(name: &str) -> Result<IpAddr> {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    if let Ok(address) = bare.parse() {
        return Ok(address);
    }
    let failed = |why: String| {
        Error::invalid(format!("error resolving passed in network volume address: lookup {name}: {why}"))
    };
    let mut found = (bare, 0).to_socket_addrs().map_err(|error| failed(error.to_string()))?;
    found.next().map(|found| found.ip()).ok_or_else(|| failed("it has no address".to_owned()))
}

/// The words with what is nobody's business left out, for an error.
pub(super) fn without_secrets(words: &[String]) -> String {
    let told = |word: &String| match word.split_once('=') {
        Some((name @ ("password" | "pass" | "password2"), _)) => format!("{name}=********"),
        _ => word.clone(),
    };
    words.iter().map(told).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    fn with(device: &str, data: &str, kind: &str) -> (String, String) {
        let (device, data) = resolved(device, &words(data), kind).unwrap();
        (device, data.join(","))
    }

    #[test]
    fn a_server_is_an_address() {
        let as_is = |device: &str, data: &str| (device.to_owned(), data.to_owned());
        assert_eq!(with(":/srv", "addr=localhost,vers=4", "nfs"), as_is(":/srv", "addr=127.0.0.1,vers=4"));
        assert_eq!(with(":/srv", "addr=10.0.0.1", "nfs4"), as_is(":/srv", "addr=10.0.0.1"));
        assert_eq!(with("10.0.0.1:/srv", "ro", "nfs"), as_is("10.0.0.1:/srv", "ro,addr=10.0.0.1"));
        assert_eq!(with("[::1]:/srv", "", "nfs4"), as_is("[::1]:/srv", "addr=::1"));
        assert_eq!(with("//localhost/s", "user=a", "cifs"), as_is("//127.0.0.1/s", "user=a"));
        assert_eq!(with("//x/s", "addr=127.0.0.2", "cifs"), as_is("//x/s", "addr=127.0.0.2"));
        assert_eq!(with("/dev/sda", "addr=nobody", "ext4"), as_is("/dev/sda", "addr=nobody"));
        let error = resolved(":/x", &words("addr=no.such.name.invalid"), "nfs").unwrap_err();
        assert!(error.message.starts_with("error resolving passed in network volume address"), "{error}");
    }

    #[test]
    fn a_password_is_not_told() {
        assert_eq!(without_secrets(&words("user=a,password=b=c,vers=3")), "user=a,password=********,vers=3");
    }
}
