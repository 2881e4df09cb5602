//! `db`: where records are kept. A database of the Go program is left alone; ours stands where the service may write.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::absolute;
use crate::config::reader::Reported;
use crate::config::reader::Section;
use crate::config::reader::Text;
use crate::store::Settings;

const FIX: &str = "write \"db\": { \"type\": \"sled\", \"dataSource\": \"/opt/acme-proxy/db/sled\" }";

/// The settings.
pub(crate) fn read(root: &Section<'_>, db: &Section<'_>) -> Result<Settings, Reported> {
    for key in ["valueDir", "badgerFileLoadingMode"] {
        db.ignore(key, "it is for badger; the store here is sled");
    }
    db.ignore("database", "it is for SQL databases; the store here is sled");
    if !root.has("db") {
        let text = "is missing, and there is no ACME without a store";
        return Err(root.place("db").error(format_args!("{text}; {FIX}")));
    }
    let kind = db.required("type", FIX);
    let source = db.required("dataSource", FIX);
    let (kind, source) = (kind?, source?);
    let path = match kind.value.to_ascii_lowercase().as_str() {
        "sled" => absolute(&source)?,
        go @ ("badger" | "badgerv1" | "badgerv2" | "bbolt") => {
            let theirs = absolute(&source)?;
            let path = beside(go, &theirs).ok_or_else(|| source.wrong(format_args!("is no path; {FIX}")))?;
            warn_of(&kind, &theirs, &path);
            path
        }
        "postgresql" => {
            let text = "is not available in this version; write \"sled\", and a directory as dataSource";
            return Err(kind.wrong(text));
        }
        "mysql" => {
            return Err(kind.wrong(format_args!(
                "is not supported, and its records can not be taken over: clients register again by themselves; {FIX}"
            )));
        }
        _ => return Err(kind.wrong(format_args!("is not supported; {FIX}"))),
    };
    Ok(Settings {
        path,
        reserve_bytes: 64 << 20,
        cache_bytes: 64 << 20,
        gather: Duration::from_millis(5),
    })
}

/// Our store for a database of the Go program. What the service may write is the directory that holds the database, be
/// it by the unit's `ReadWritePaths=` or as a container's volume. bbolt's is a file, so it is the one around it; badger's
/// is itself a directory, and badger does not mind another one in it. A store that an earlier version has made beside
/// badger's directory stays in use: without it another account would be registered, which spends the EAB.
fn beside(kind: &str, theirs: &Path) -> Option<PathBuf> {
    let mut name = theirs.file_name()?.to_owned();
    name.push(".sled");
    let beside = theirs.with_file_name(name);
    match kind {
        "bbolt" => Some(beside),
        _ if beside.join("format").exists() => Some(beside),
        _ => Some(theirs.join("sled")),
    }
}

fn warn_of(kind: &Text<'_>, theirs: &Path, ours: &Path) {
    kind.place.warn(format_args!(
        "\"{}\" is a database of the Go program. It is left alone; records are kept in a sled store, {}. To take the \
         clients' accounts over, stop the Go program and run: acme-proxy import step-ca {} ca.json",
        kind.value,
        ours.display(),
        theirs.display()
    ));
}
