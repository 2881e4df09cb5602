//! `db`: where records are kept. A database of the Go program is left alone; ours stands where the service may write, or
//! is a PostgreSQL that several replicas share.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::acme::secret::Secret;
use crate::config::absolute;
use crate::config::reader::Reported;
use crate::config::reader::Section;
use crate::config::reader::Text;
use crate::config::secret;
use crate::store::Settings;
use crate::store::postgres;
use crate::store::postgres::url::ConnectionUrl;

const FIX: &str = "write \"db\": { \"type\": \"sled\", \"dataSource\": \"/opt/acme-proxy/db/sled\" }";

/// How many connections a replica may have, unless the file says. PostgreSQL admits 100 of all clients unless it is told
/// otherwise, and three replicas are to fit.
const POOL: usize = 16;

/// With one connection a long statement would hold up everything; with more than so many the database only works less.
const POOL_BOUNDS: std::ops::RangeInclusive<usize> = 2..=200;

/// What is shorter may be guessed, in bytes.
const SECRET_BYTES: usize = 32;

/// A secret of fewer different bytes is no random one.
const SECRET_DIFFERENT_BYTES: usize = 10;

/// Where systemd makes a directory for the unit.
const SOCKET_DIRECTORY: &str = "/run/acme-proxy";

/// The settings: those of the embedded store, or of the database in its place. Then the first ones only name the
/// directory of the control socket.
pub(crate) fn read(
    root: &Section<'_>,
    db: &Section<'_>,
) -> Result<(Settings, Option<postgres::Settings>), Reported> {
    for key in ["valueDir", "badgerFileLoadingMode"] {
        db.ignore(key, "it is for badger, and the store here is another one");
    }
    let kind = db.text("type");
    if let Ok(Some(kind)) = &kind
        && kind.value.eq_ignore_ascii_case("postgresql")
    {
        let database = shared(db);
        let sockets = match db.text("socket_directory")? {
            Some(text) => absolute(&text)?,
            None => PathBuf::from(SOCKET_DIRECTORY),
        };
        return Ok((embedded(sockets), Some(database?)));
    }
    for key in ["database", "password", "secret", "pool", "socket_directory"] {
        db.ignore(key, "it is for PostgreSQL; the store here is sled");
    }
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
        "mysql" => {
            return Err(kind.wrong(format_args!(
                "is not supported, and its records can not be taken over: clients register again by themselves; {FIX}"
            )));
        }
        _ => return Err(kind.wrong(format_args!("is not supported; {FIX}, or \"postgresql\""))),
    };
    Ok((embedded(path), None))
}

fn embedded(path: PathBuf) -> Settings {
    Settings {
        path,
        reserve_bytes: 64 << 20,
        cache_bytes: 64 << 20,
        gather: Duration::from_millis(5),
    }
}

/// The database that replicas share.
fn shared(db: &Section<'_>) -> Result<postgres::Settings, Reported> {
    let url = url(db);
    let database = db.text("database");
    let password = db
        .text("password")
        .and_then(|text| text.as_ref().map(secret::elsewhere).transpose());
    let secret = shared_secret(db);
    let pool = pool(db);
    let (url, database, password) = (url?, database?, password?);
    if password.is_some() && url.password.is_some() {
        let text = "says the password, and so does db.dataSource; take it out of db.dataSource";
        return Err(db.place("password").error(text));
    }
    // As step-ca does it: the name here wins over the URL's, and without any it is the user's.
    let database = match (&database, &url.database) {
        (Some(text), _) => text.value.to_owned(),
        (None, Some(name)) => name.clone(),
        (None, None) => url.user.clone(),
    };
    Ok(postgres::Settings {
        connection: postgres::connect::Settings {
            database,
            password: password.or_else(|| url.password.clone()),
            pool: pool?,
            url,
        },
        secret: secret?,
    })
}

/// No message shows the URL: it may hold a password.
fn url(db: &Section<'_>) -> Result<ConnectionUrl, Reported> {
    let fix =
        "write \"postgresql://acmeproxy@db1.example.com,db2.example.com/acmeproxy?sslmode=verify-full\"";
    let source = db.required("dataSource", fix)?;
    let url: ConnectionUrl = source.value.parse().map_err(|error| source.place.error(error))?;
    if url.password.is_some() {
        source.place.keeps_secret(None);
    }
    for warning in url.warnings() {
        source.place.warn(warning);
    }
    Ok(url)
}

fn shared_secret(db: &Section<'_>) -> Result<Secret<Vec<u8>>, Reported> {
    const MAKE: &str = "make one with: openssl rand -base64 48 > /etc/acme-proxy/db-secret, give the same file to every \
                        replica, and write \"secret\": \"file:/etc/acme-proxy/db-secret\"";
    let text = db.required("secret", &format!("all replicas need the same one: {MAKE}"))?;
    let secret = secret::elsewhere(&text)?.reveal().as_bytes().to_vec();
    let different: std::collections::BTreeSet<u8> = secret.iter().copied().collect();
    match secret.len() < SECRET_BYTES || different.len() < SECRET_DIFFERENT_BYTES {
        true => Err(text.wrong(format_args!(
            "names a secret that can be guessed: fewer than 32 bytes, or not random; {MAKE}"
        ))),
        false => Ok(Secret::new(secret)),
    }
}

fn pool(db: &Section<'_>) -> Result<usize, Reported> {
    let what = "a number from 2 to 200";
    match db.number::<usize>("pool", what)? {
        None => Ok(POOL),
        Some((connections, _)) if POOL_BOUNDS.contains(&connections) => Ok(connections),
        Some((connections, place)) => {
            Err(place.error(format_args!("{connections} is out of range; write {what}")))
        }
    }
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
