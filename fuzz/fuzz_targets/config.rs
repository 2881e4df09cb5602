//! `ca.json`: whatever stands in it, reading ends in a configuration or in lines that name the file, and a secret in it
//! is never shown.

#![no_main]

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::LazyLock;

use acme_proxy::config::{Config, ConfigError, Overrides};
use libfuzzer_sys::fuzz_target;

static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("acme-proxy-fuzz-{}-ca.json", std::process::id())));

fuzz_target!(|data: &[u8]| {
    // What is named in the file is opened: keep to this file.
    if data
        .windows(5)
        .any(|window| window.eq_ignore_ascii_case(b"file:"))
    {
        return;
    }
    let mut file = File::create(&*FILE).unwrap();
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    file.write_all(data).unwrap();
    let name = FILE.display().to_string();
    let named = |line: &String| assert!(line.starts_with(&name), "no file in: {line}");
    match Config::load(&FILE, &Overrides::default()) {
        Ok(config) => {
            config.warnings.iter().for_each(named);
            let shown = format!("{config:?}");
            let eabs = config
                .upstreams
                .iter()
                .filter_map(|upstream| upstream.settings.eab.as_ref());
            for eab in eabs.filter(|eab| eab.kid.reveal().len() > 16) {
                assert!(!shown.contains(eab.kid.reveal()), "a secret is shown");
            }
        }
        Err(ConfigError::Invalid { lines }) => {
            assert!(!lines.is_empty());
            lines.iter().for_each(named);
        }
        Err(ConfigError::Unreadable { file, .. }) => assert_eq!(file, name),
    }
});
