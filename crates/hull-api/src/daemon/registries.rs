//! What the flags and the configuration file say of registries.

use std::time::Duration;

use hull_engine::Result;
use hull_image::registry::Settings;

use super::docker;
use super::flags::Flags;

/// Lays flags over the file over the defaults.
///
/// # Errors
/// A mirror or an insecure registry is no address, or a number is none that makes sense.
pub(super) fn settle(flags: &Flags, file: &Flags) -> Result<Settings> {
    let usual = Settings::default();
    let both = |flags: &[String], file: &[String]| [flags, file].concat();
    let number = |flag: Option<usize>, file: Option<usize>, usual| flag.or(file).unwrap_or(usual);
    let settings = Settings {
        default_registry: flags
            .default_registry
            .clone()
            .or_else(|| file.default_registry.clone())
            .unwrap_or(usual.default_registry),
        mirrors: both(&flags.registry_mirrors, &file.registry_mirrors),
        mirrors_of: file.mirrors.clone(),
        insecure: both(&flags.insecure_registries, &file.insecure_registries),
        downloads: number(flags.max_concurrent_downloads, file.max_concurrent_downloads, usual.downloads),
        uploads: number(flags.max_concurrent_uploads, file.max_concurrent_uploads, usual.uploads),
        attempts: number(flags.max_download_attempts, file.max_download_attempts, usual.attempts),
        patience: match flags.registry_timeout.or(file.registry_timeout) {
            Some(seconds) => Duration::from_secs(u64::from(seconds.max(1))),
            None => usual.patience,
        },
        proxies: docker::proxies(flags, file),
        certificates: match [&flags.certs_dir[..], &file.certs_dir].concat() {
            named if named.is_empty() => usual.certificates,
            named => named,
        },
    };
    settings.check()?;
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Flags {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn dockers_keys_are_understood() {
        let settings = settle(
            &Flags { insecure_registries: vec!["r:5000".into()], ..Flags::default() },
            &file(
                r#"{"registry-mirrors": ["https://m.example"], "insecure-registries": ["10.0.0.0/8"], "max-concurrent-downloads": 7,
                    "max-download-attempts": 2, "mirrors": {"quay.example/a": ["http://m:5000/b"]}, "registry-timeout": 3}"#,
            ),
        )
        .unwrap();
        assert_eq!(settings.mirrors, ["https://m.example"]);
        assert_eq!(settings.insecure, ["r:5000", "10.0.0.0/8"]);
        assert_eq!((settings.downloads, settings.uploads, settings.attempts), (7, 5, 2));
        assert_eq!(settings.patience, Duration::from_secs(3));
        assert_eq!(settings.mirrors_of["quay.example/a"], ["http://m:5000/b"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            r#"{"registry-mirrors": ["m.example"]}"#,
            r#"{"insecure-registries": ["http://r"]}"#,
            r#"{"max-concurrent-downloads": 0}"#,
            r#"{"mirrors": {"r": ["ftp://m"]}}"#,
        ] {
            assert!(settle(&Flags::default(), &file(text)).is_err(), "{text}");
        }
    }
}
