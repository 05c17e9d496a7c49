//! What lies in a registry's folder of `certs.d`: each file behind a line `== NAME`.

use std::fs;
use std::path::PathBuf;

use hull_image::registry::words;

use crate::{Once, Target, as_it_is, outcome};

/// Of nobody: made for this, and used nowhere.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n\
    MIIBPjCB8aADAgECAhQZFjgWDfnDqrKGGCMSh5GJOHJKSzAFBgMrZXAwFDESMBAG\n\
    A1UEAwwJci5leGFtcGxlMCAXDTI2MTEyNzAxMDIxOFoYDzIxMjYxMTAzMDEwMjE4\n\
    WjAUMRIwEAYDVQQDDAlyLmV4YW1wbGUwKjAFBgMrZXADIQCa2v9lMKrZQTsLOaqB\n\
    kM8rYJ2aEIjdukF+PoE2LbsCGqNTMFEwHQYDVR0OBBYEFIgtsgflFtQe//TxGSf8\n\
    Ag4tHDUZMB8GA1UdIwQYMBaAFIgtsgflFtQe//TxGSf8Ag4tHDUZMA8GA1UdEwEB\n\
    /wQFMAMBAf8wBQYDK2VwA0EAGA3GpCxUfLOyKxz0tLiR3VaXJfiTkAT5wukikwzM\n\
    AmSB2UhMH4CzDrUQyxVsY5NiGfmm0/NN4hEd+1J2gxxGBg==\n\
    -----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIIFJfLv34wCo18KYmSExCo5FIbyBbi4NGJiXkhRrdY2B\n\
    -----END PRIVATE KEY-----\n";

pub(crate) const TARGET: Target = Target {
    name: "certificates",
    about: "the files of certs.d",
    seeds: || {
        vec![
            format!("== ca.crt\n{CERTIFICATE}").into_bytes(),
            format!("== client.cert\n{CERTIFICATE}== client.key\n{KEY}").into_bytes(),
            format!("== ca.crt\n{CERTIFICATE}{CERTIFICATE}== x.cert\n{CERTIFICATE}== x.key\nno key\n")
                .into_bytes(),
            b"== alone.key\n== other\n".to_vec(),
        ]
    },
    words: &[
        "== ",
        ".crt\n",
        ".cert\n",
        ".key\n",
        "-----BEGIN CERTIFICATE-----\n",
        "-----END CERTIFICATE-----\n",
        "-----BEGIN PRIVATE KEY-----\n",
        "-----BEGIN RSA PRIVATE KEY-----\n",
        "-----BEGIN EC PRIVATE KEY-----\n",
        "-----END PRIVATE KEY-----\n",
        "-----",
        "\n",
        "=",
        "MIIB",
    ],
    block: 1,
    repair: as_it_is,
    prepare,
};

fn prepare() -> Once {
    let folder = super::tar::scratch();
    let folders: Vec<PathBuf> = vec![folder.path().to_owned()];
    let own = folder.path().join("r.example:5000");
    Box::new(move |input| {
        let _kept = &folder;
        if own.exists() {
            fs::remove_dir_all(&own).expect("remove what was there");
        }
        fs::create_dir(&own).expect("a folder");
        for part in split(input) {
            let end = part.iter().position(|byte| *byte == b'\n').unwrap_or(part.len());
            let name: String = String::from_utf8_lossy(&part[..end])
                .chars()
                .filter(|c| !"/\0".contains(*c))
                .take(60)
                .collect();
            if !matches!(name.as_str(), "" | "." | "..") {
                fs::write(own.join(name), part.get(end + 1..).unwrap_or_default()).expect("a file");
            }
        }
        outcome(&words::certificates("r.example:5000", &folders))
    })
}

/// What stands behind each mark.
fn split(input: &[u8]) -> Vec<&[u8]> {
    let mut starts: Vec<usize> =
        (0..input.len()).filter(|at| input[*at..].starts_with(b"== ")).map(|at| at + 3).collect();
    starts.push(input.len() + 3);
    starts.windows(2).map(|pair| input.get(pair[0]..pair[1] - 3).unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn certificates() {
        // What is well-formed is taken.
        let mut once = (super::TARGET.prepare)();
        let said: Vec<String> = (super::TARGET.seeds)().iter().map(|seed| once(seed)).collect();
        assert_eq!(said[..2], ["done", "done"]);
        crate::briefly(&super::TARGET);
    }
}
