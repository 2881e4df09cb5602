//! Where acme-proxy's binary is, and the files that it is given.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// `ACME_PROXY`, or the binary that cargo put beside the examples' directory.
pub(crate) fn program() -> anyhow::Result<PathBuf> {
    let program = match std::env::var_os("ACME_PROXY") {
        Some(path) => PathBuf::from(path),
        None => {
            let own = std::env::current_exe()?;
            let target = own
                .parent()
                .and_then(Path::parent)
                .context("cargo's target directory")?;
            target.join("acme-proxy")
        }
    };
    if !program.is_file() {
        bail!(
            "there is no {}: run `cargo build` first, or set ACME_PROXY",
            program.display()
        );
    }
    Ok(program)
}

/// Only the owner may read: `ca.json` holds the EAB key.
pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options
        .open(path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    Ok(file.write_all(text.as_bytes())?)
}
