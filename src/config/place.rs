//! Where records are kept, as the command line says it: `sled:DIRECTORY`, or the URL of a database. It means what it would mean in
//! `db`.

use serde_json::json;

use crate::config::ConfigError;
use crate::config::db;
use crate::config::reader::Findings;
use crate::config::reader::Section;
use crate::config::tree;

/// A place for records.
#[derive(Debug)]
pub enum Place {
    /// The embedded store's directory.
    Directory(crate::store::Settings),
    /// A database.
    Database(crate::store::postgres::Settings),
}

/// How the command line writes a place.
#[derive(Debug)]
pub struct Written<'a> {
    /// `sled:DIRECTORY` or `postgresql://...`.
    pub place: &'a str,
    /// The database's password: `file:PATH` or `env:NAME`.
    pub password: Option<&'a str>,
    /// What the replicas share (`db.secret`): `file:PATH` or `env:NAME`.
    pub secret: Option<&'a str>,
}

/// The place that is written there, which a message calls by the flag.
///
/// # Errors
///
/// All that is wrong with it.
pub fn place(flag: &str, written: &Written<'_>) -> Result<Place, ConfigError> {
    let Written {
        place,
        password,
        secret,
    } = written;
    let mut db = match place.strip_prefix("sled:") {
        Some(path) => json!({ "type": "sled", "dataSource": path }),
        None if place.starts_with("postgresql:") || place.starts_with("postgres:") => {
            json!({ "type": "postgresql", "dataSource": place, "password": password, "secret": secret })
        }
        None => {
            let line = format!("{flag}: write sled:DIRECTORY, or the URL of a database: postgresql://...");
            return Err(ConfigError::Invalid { lines: vec![line] });
        }
    };
    if let Some(members) = db.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    let invalid = |lines| ConfigError::Invalid { lines };
    let text = json!({ "db": db }).to_string();
    let document = tree::parse(&text).map_err(|error| invalid(vec![format!("{flag}: {error}")]))?;
    let findings = Findings::default();
    let read = Section::read_root(document.root.as_ref(), &findings, |root| {
        root.section("db", |db| db::read(root, db))
    });
    let (errors, _) = findings.into_lines(flag);
    match read {
        Ok((_, Some(database))) if errors.is_empty() => Ok(Place::Database(database)),
        Ok((settings, None)) if errors.is_empty() => Ok(Place::Directory(settings)),
        Ok(_) | Err(_) => Err(invalid(errors)),
    }
}
