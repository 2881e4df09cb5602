//! Files: what the configuration says, who may read and change what, and whether there is room.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, StatVfsMountFlags, statvfs};

use crate::app::deep::known::has_store;
use crate::app::deep::{Check, Facts, Finding};
use crate::server::OwnCertificate;
use crate::tls::OfFiles;

/// Other users may read a file with this bit.
const OTHERS_READ: u32 = 0o004;

/// Other users may change a file with this bit.
const OTHERS_WRITE: u32 = 0o002;

/// Room for some hundred thousand orders: time to act before the reserve is met.
const ROOM: u64 = 1 << 30;

/// File systems that count their files should have so many left.
const FILES: u64 = 1000;

pub(crate) async fn look(facts: &Facts) -> Vec<Finding> {
    let mut findings = configuration(facts);
    findings.push(user(facts));
    findings.push(secret_file(&facts.path, facts.config.holds_secrets, facts));
    let mut files = facts.config.secret_files.clone();
    files.sort();
    files.dedup();
    findings.extend(files.iter().map(|file| secret_file(file, true, facts)));
    if let OwnCertificate::Files { certificate, key } = &facts.config.server.own_certificate {
        findings.push(secret_file(key, true, facts));
        findings.push(tls_files(certificate, key));
    }
    // The database has its own checks.
    if facts.config.database.is_none() {
        findings.push(store(facts));
        findings.extend(disk(facts));
        findings.extend(go_database(facts));
    }
    findings
}

fn configuration(facts: &Facts) -> Vec<Finding> {
    let file = facts.path.display();
    let warnings = &facts.config.warnings;
    if warnings.is_empty() {
        return vec![Finding::ok(
            Check::Configuration,
            file,
            "can be used, and says nothing without effect",
        )];
    }
    let warning = |text: &String| {
        Finding::warning(
            Check::Configuration,
            "",
            text,
            "change the file, or leave it if this is meant so",
        )
    };
    warnings.iter().map(warning).collect()
}

/// The directory that is there, of those that the store is to be in.
fn nearest(path: &Path) -> Option<(PathBuf, Metadata)> {
    path.ancestors()
        .find_map(|path| Some((path.to_owned(), std::fs::metadata(path).ok()?)))
}

fn user(facts: &Facts) -> Finding {
    let user = rustix::process::geteuid().as_raw();
    let store = &facts.config.store.path;
    let owner = std::fs::metadata(store).ok().map(|metadata| metadata.uid());
    match owner {
        Some(owner) if owner != user => Finding::warning(
            Check::User,
            user,
            format!(
                "the store {} belongs to the user with the id {owner}; what that user may do is not what this one may, and the store is not opened",
                store.display()
            ),
            format!("run this as the daemon's user: sudo -u '#{owner}' acme-proxy check --deep"),
        ),
        None if user == 0 => Finding::warning(
            Check::User,
            user,
            "this is root, who may read and bind everything; it says little about the daemon's user",
            "run this as the daemon's user: sudo -u acme-proxy acme-proxy check --deep",
        ),
        Some(_) | None => Finding::ok(Check::User, user, "the checks are made as this user"),
    }
}

/// SECURITY T5: whoever reads it has the EAB; whoever changes it has the daemon.
fn secret_file(path: &Path, secret: bool, facts: &Facts) -> Finding {
    let shown = &path.display().to_string();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => {
            return Finding::failure(
                Check::SecretFile,
                shown,
                format!("can not be looked at: {error}"),
                "give the daemon's user access to it",
            );
        }
    };
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    let who = format!("mode {mode:03o}, owner {owner}");
    let chmod = || format!("chmod 640 {shown}");
    if mode & OTHERS_WRITE != 0 {
        let text = format!("every user of this host may change it ({who})");
        return Finding::failure(Check::SecretFile, shown, text, chmod());
    }
    if secret && mode & OTHERS_READ != 0 {
        let text = format!("it holds secrets, and every user of this host may read it ({who})");
        let fix = format!(
            "{}; then take a new EAB or key, for the old one may be known",
            chmod()
        );
        return Finding::failure(Check::SecretFile, shown, text, fix);
    }
    let store = nearest(&facts.config.store.path).map(|(_, metadata)| metadata.uid());
    let trusted = [
        Some(0),
        Some(rustix::process::geteuid().as_raw()),
        store.filter(|_| facts.config.store.path.exists()),
    ];
    match trusted.contains(&Some(owner)) {
        true => Finding::ok(Check::SecretFile, shown, who),
        false => Finding::warning(
            Check::SecretFile,
            shown,
            format!("it belongs to another user than root and the daemon's, who may change it ({who})"),
            format!("chown root {shown}"),
        ),
    }
}

fn tls_files(certificate: &Path, key: &Path) -> Finding {
    let subject = certificate.display();
    let read = |path: &Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let used = || OfFiles::parse(&read(certificate)?, &read(key)?).map_err(|error| error.to_string());
    match used() {
        Ok(_) => Finding::ok(
            Check::TlsFiles,
            subject,
            format!("the key in {} is the certificate's", key.display()),
        ),
        Err(why) => Finding::failure(
            Check::TlsFiles,
            subject,
            why,
            "write the files of one certificate and its key into tls.certificate and tls.key",
        ),
    }
}

fn store(facts: &Facts) -> Finding {
    let path = &facts.config.store.path;
    let shown = &path.display().to_string();
    let Some((there, metadata)) = nearest(path) else {
        return Finding::failure(
            Check::Store,
            shown,
            "no directory above it can be looked at",
            "write the path of a directory that the daemon's user may use into db.dataSource",
        );
    };
    let may_write = rustix::fs::access(&there, Access::WRITE_OK | Access::EXEC_OK);
    if let Err(error) = may_write {
        return Finding::failure(
            Check::Store,
            shown,
            format!("this user may not write to {}: {error}", there.display()),
            format!(
                "give {} to the daemon's user (chown), and name it in ReadWritePaths= of the unit",
                there.display()
            ),
        );
    }
    if there != *path {
        return Finding::ok(Check::Store, shown, "will be made at the first start");
    }
    let mode = metadata.mode() & 0o777;
    match (metadata.is_dir(), mode & 0o077) {
        (false, _) => Finding::failure(
            Check::Store,
            shown,
            "is no directory",
            "write a directory into db.dataSource",
        ),
        (true, 0) if has_store(path) => Finding::ok(Check::Store, shown, format!("mode {mode:03o}")),
        (true, 0) => Finding::ok(
            Check::Store,
            shown,
            format!("mode {mode:03o}, without records yet"),
        ),
        (true, _) => Finding::warning(
            Check::Store,
            shown,
            format!("other users may look into it (mode {mode:03o}); the next start sets 700"),
            format!("chmod 700 {shown}"),
        ),
    }
}

fn disk(facts: &Facts) -> Option<Finding> {
    let settings = &facts.config.store;
    let (there, _) = nearest(&settings.path)?;
    let shown = there.display();
    let room = match statvfs(&there) {
        Ok(room) => room,
        Err(error) => {
            let text = format!("its file system does not tell its room: {error}");
            return Some(Finding::warning(
                Check::Disk,
                shown,
                text,
                "look at the file system",
            ));
        }
    };
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    let text = format!(
        "{} MiB free, reserve {} MiB",
        free >> 20,
        settings.reserve_bytes >> 20
    );
    let finding = if room.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let fix = "mount it for writing, or name the directory in ReadWritePaths= of the unit";
        Finding::failure(Check::Disk, shown, "its file system is read-only", fix)
    } else if free < settings.reserve_bytes {
        let text = format!("{text}: new accounts and orders are refused");
        Finding::failure(Check::Disk, shown, text, "make room, or move db.dataSource")
    } else if room.f_files > 0 && room.f_favail < FILES {
        let text = format!("{text}, but only {} files more can be made", room.f_favail);
        Finding::failure(Check::Disk, shown, text, "delete files that nobody needs (df -i)")
    } else if free < ROOM {
        let text = format!("{text}; an order takes about 16 kB");
        Finding::warning(Check::Disk, shown, text, "make room")
    } else {
        Finding::ok(Check::Disk, shown, text)
    };
    Some(finding)
}

/// The configuration puts our store beside a database of the Go program.
fn go_database(facts: &Facts) -> Option<Finding> {
    let store = &facts.config.store.path;
    // bbolt's file has ours beside it, badger's directory has it inside.
    let around = store.parent().filter(|_| store.ends_with("sled"));
    let database = match around.filter(|directory| directory.join("MANIFEST").exists()) {
        Some(badger) => badger.to_owned(),
        None => store.with_extension(""),
    };
    let is_theirs = database != *store && database.exists();
    let shown = database.display();
    if !is_theirs {
        return None;
    }
    let fix = format!(
        "stop the Go program, then: acme-proxy import step-ca {shown} {}",
        facts.path.display()
    );
    Some(match has_store(store) {
        true => Finding::ok(
            Check::GoDatabase,
            shown,
            "is left alone; records are kept beside it",
        ),
        false => Finding::warning(
            Check::GoDatabase,
            shown,
            "the accounts in it do not come along by themselves",
            fix,
        ),
    })
}
