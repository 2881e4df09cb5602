//! Accounts that the operator brings: a file of `acme-proxy upstream export`, or a directory of another client's.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};

use crate::upstream::account::portable::Portable;

/// No account is longer, in bytes.
const LONGEST: u64 = 64 * 1024;

const EXPECTED: &str = "certbot's (private_key.json, regr.json), lego's (account.json, keys/) or acme.sh's (account.key, ca.conf)";

/// Reads an account, and gives it as `acme-proxy upstream export` writes it.
///
/// # Errors
///
/// What is wrong with the file or the directory.
pub fn read(path: &Path) -> anyhow::Result<String> {
    let account = match path.is_dir() {
        true => of_another_client(path)?,
        false => Portable::from_ours(&text(path)?),
    };
    let account = account.map_err(|why| anyhow!("{}: {why}", path.display()))?;
    Ok(account.to_string())
}

fn of_another_client(directory: &Path) -> anyhow::Result<Result<Portable, String>> {
    let file = |name: &str| directory.join(name);
    if file("private_key.json").exists() {
        let (key, registration) = (text(&file("private_key.json"))?, text(&file("regr.json"))?);
        return Ok(Portable::from_certbot(&key, &registration));
    }
    if file("account.json").exists() && file("keys").is_dir() {
        let (account, key) = (text(&file("account.json"))?, text(&only_key(&file("keys"))?)?);
        return Ok(Portable::from_lego(&account, &key));
    }
    if file("account.key").exists() {
        let (key, configuration) = (text(&file("account.key"))?, text(&file("ca.conf"))?);
        return Ok(Portable::from_acme_sh(&configuration, &key));
    }
    bail!(
        "{} is no account's directory: expected {EXPECTED}",
        directory.display()
    )
}

/// The one key in lego's directory of keys.
fn only_key(directory: &Path) -> anyhow::Result<PathBuf> {
    let unreadable = || format!("{} can not be read", directory.display());
    let mut keys = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "key") {
            keys.push(path);
        }
    }
    match keys.as_slice() {
        [key] => Ok(key.clone()),
        keys => bail!("{} holds {} keys, and not one", directory.display(), keys.len()),
    }
}

fn text(path: &Path) -> anyhow::Result<String> {
    let unreadable = || format!("{} can not be read", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(unreadable)?;
    let read = file.take(LONGEST + 1).read_to_end(&mut bytes);
    if u64::try_from(read.with_context(unreadable)?)? > LONGEST {
        bail!("{} is longer than {LONGEST} bytes; no account is", path.display());
    }
    String::from_utf8(bytes).with_context(unreadable)
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use super::*;

    #[test]
    fn a_file_that_is_longer_than_any_account_is_refused_and_not_cut() {
        let directory = tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let longest = usize::try_from(LONGEST).unwrap();
        // A cut would go through a letter of two bytes.
        let text = format!("x{}", "\u{e9}".repeat(longest / 2));
        assert_eq!(text.len(), longest + 1);
        std::fs::write(file("account.json"), &text).unwrap();
        std::fs::write(file("private_key.json"), "{}").unwrap();
        std::fs::write(file("regr.json"), &text).unwrap();
        for (path, named) in [
            (file("account.json"), "account.json"),
            (directory.path().to_owned(), "regr.json"),
        ] {
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("65536 bytes"), "{error}");
        }
        std::fs::write(file("account.json"), &text[1..]).unwrap();
        let error = read(&file("account.json")).unwrap_err().to_string();
        assert!(error.contains("it is no account"), "{error}");
    }
}
