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

/// The place that is written there, which a message calls by the flag, and what is to be said about it although it can be
/// used.
///
/// # Errors
///
/// All that is wrong with it.
pub fn place(flag: &str, written: &Written<'_>) -> Result<(Place, Vec<String>), ConfigError> {
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
    let (errors, warnings) = findings.into_lines(flag);
    match read {
        Ok((_, Some(database))) if errors.is_empty() => Ok((Place::Database(database), warnings)),
        Ok((settings, None)) if errors.is_empty() => Ok((Place::Directory(settings), warnings)),
        Ok(_) | Err(_) => Err(invalid(errors)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dangerous_in_the_url_of_a_place_is_said() {
        let mut secret = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut secret, b"0123456789abcdefghijklmnopqrstuv").unwrap();
        let secret = format!("file:{}", secret.path().display());
        let warnings = |url| {
            let written = Written {
                place: url,
                password: None,
                secret: Some(&secret),
            };
            place("--to", &written).unwrap().1
        };
        let open = warnings("postgresql://us:hunter2@db1.example.com/db?sslmode=disable");
        assert!(
            open[0].starts_with("--to") && open[0].contains("holds the password"),
            "{open:?}"
        );
        assert!(
            open[1].contains("sslmode=disable: everybody on the way"),
            "{open:?}"
        );
        assert!(!open.concat().contains("hunter2"), "{open:?}");
        assert!(warnings("postgresql://us@db1.example.com/db").is_empty());
        assert!(warnings("sled:/srv/db").is_empty());
    }
}
