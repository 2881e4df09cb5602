//! Secrets: written in the file, or in another one (`file:PATH`), or in the environment (`env:NAME`). None is ever printed.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::acme::secret::Secret;
use crate::config::reader::Reported;
use crate::config::reader::Text;

/// Secrets are short; a larger file is not one.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// Others may read or write a file with these bits. Its group may: the installer gives `ca.json` to the service's.
pub(crate) const OTHERS: u32 = 0o006;

/// Whether the secret itself is written in the file.
pub(crate) fn stands_here(text: &Text<'_>) -> bool {
    !text.value.starts_with("file:") && !text.value.starts_with("env:")
}

/// The secret that the text is, or that it says where to find: `file:PATH` or `env:NAME`. No message shows it.
pub(crate) fn resolved(text: &Text<'_>) -> Result<Secret, Reported> {
    if let Some(path) = text.value.strip_prefix("file:") {
        return from_file(Path::new(path), text);
    }
    let Some(name) = text.value.strip_prefix("env:") else {
        return Ok(Secret::new(text.value.trim().to_owned()));
    };
    match std::env::var(name) {
        Ok(value) if !value.trim().is_empty() => Ok(Secret::new(value.trim().to_owned())),
        Ok(_) | Err(_) => {
            Err(text.wrong("names a variable that is not set; set it in the service's environment"))
        }
    }
}

/// The secret that the text says where to find, and that may not stand in `ca.json` itself. No message shows it.
pub(crate) fn elsewhere(text: &Text<'_>) -> Result<Secret, Reported> {
    match stands_here(text) {
        true => Err(text.place.error(
            "says the secret itself; write it into a file that only the service may read, and \"file:PATH\" here, or \
             \"env:NAME\"",
        )),
        false => resolved(text),
    }
}

fn from_file(path: &Path, text: &Text<'_>) -> Result<Secret, Reported> {
    let unreadable = |error| {
        text.wrong(format_args!(
            "can not be read: {error}; give the service's user access to it"
        ))
    };
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    if mode & OTHERS != 0 {
        text.place.warn(format_args!(
            "every user of this host may read or change {} (mode {:03o}); run chmod 640",
            path.display(),
            mode & 0o777
        ));
    }
    text.place.keeps_secret(Some(path));
    let mut content = String::new();
    file.take(MAX_SECRET_BYTES.saturating_add(1))
        .read_to_string(&mut content)
        .map_err(unreadable)?;
    match content.trim() {
        _ if u64::try_from(content.len()).is_ok_and(|length| length > MAX_SECRET_BYTES) => {
            Err(text.wrong("names a file of more than 64 KiB, which is no secret"))
        }
        "" => Err(text.wrong("names an empty file; write the secret into it")),
        secret => Ok(Secret::new(secret.to_owned())),
    }
}
