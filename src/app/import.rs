//! `acme-proxy import`: accounts from the database of a step-ca, which is what the Go acme-proxy is inside, so that
//! clients keep their account URLs.
//!
//! The file is read here, by whoever runs the command; the store is written by the daemon, or here if none runs.

pub mod bolt;
mod step_ca;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};

use crate::acme::account::{Account, AccountStatus};
use crate::app::control::{Operator, Request};
use crate::app::import::bolt::BoltError;
use crate::app::import::step_ca::{Accounts, Provisioners, Taken};
use crate::config::Config;
use crate::jose::jwk::Jwk;
use crate::policy::Policy;
use crate::ra::import::Imported;

/// How many bytes of accounts are handed to the daemon at a time. It takes requests of 64 KiB.
const PAGE: usize = 32 * 1024;

/// How many accounts are named that can not be taken.
const NAMED: usize = 20;

/// How many ways to write account URLs are shown.
const PREFIXES: usize = 10;

/// What is to be imported, and how.
#[derive(Debug)]
pub struct Import {
    /// The database.
    pub path: PathBuf,
    /// The provisioner of accounts whose own is not written down.
    pub provisioner: Option<String>,
    /// Whether it is only to be seen what would be done.
    pub dry_run: bool,
}

/// Which provisioners there are, and which keys nobody may have.
struct Configured {
    policy: Policy,
    fallback: Result<String, String>,
}

impl Provisioners for Configured {
    fn of(&self, recorded: Option<&str>) -> Result<String, String> {
        let Some(name) = recorded else {
            return self.fallback.clone();
        };
        match self.policy.provisioner(name) {
            Some(_) => Ok(name.to_owned()),
            None => Err(format!(
                "it belongs to provisioner {name:?}, and ca.json has none of that name"
            )),
        }
    }

    fn objection(&self, key: &Jwk) -> Option<String> {
        let source = self.policy.source_of_blocked(&key.number_hash())?;
        Some(format!("its key is no secret, it is known from {source}"))
    }
}

/// Imports the accounts of a step-ca, and gives what is to be said about it.
///
/// # Errors
///
/// What is wrong with the database or the store; and, if it went wrong on the way, what was done before.
pub async fn step_ca(config: Config, import: Import) -> anyhow::Result<String> {
    let path = &import.path;
    let policy = Policy::new(config.policy.clone());
    let fallback = fallback(&policy, import.provisioner.as_deref())?;
    let file = open(path)?;
    let provisioners = Configured { policy, fallback };
    let read = step_ca::read(BufReader::new(file), &provisioners);
    let accounts = read.map_err(|error| match error {
        BoltError::Foreign => {
            anyhow::anyhow!("{} is no bbolt database; give the file that db.dataSource names in step-ca's ca.json where db.type is bbolt", path.display())
        }
        other => anyhow::anyhow!("{} {other}", path.display()),
    })?;
    let Some(accounts) = accounts else {
        bail!(
            "{} is a bbolt database, but none of a step-ca: there is no bucket acme_accounts in it",
            path.display()
        );
    };
    let mut summary = Summary::new(&config, &accounts);
    // Without a store there is none to ask, and a dry run makes none.
    let outcome = match import.dry_run && config.database.is_none() && is_empty(&config.store.path) {
        true => {
            summary.count(&accounts.taken, &vec![Imported::Now; accounts.taken.len()]);
            Ok(())
        }
        false => take_over(config, &accounts.taken, import.dry_run, &mut summary).await,
    };
    let text = summary.text(path, &accounts, import.dry_run);
    match outcome {
        Ok(()) => Ok(text),
        Err(error) => Err(error.context(format!(
            "{text}The import broke off; what it has done so far stands above, and it can be run again"
        ))),
    }
}

/// The provisioner of accounts whose own is not written down, or why there is none.
fn fallback(policy: &Policy, wanted: Option<&str>) -> anyhow::Result<Result<String, String>> {
    let names: Vec<&str> = policy
        .provisioners()
        .iter()
        .map(|known| known.name.as_str())
        .collect();
    match (wanted, names.as_slice()) {
        (Some(name), names) if names.contains(&name) => Ok(Ok(name.to_owned())),
        (Some(name), names) => bail!("ca.json has no provisioner {name:?}; it has {}", names.join(", ")),
        (None, [only]) => Ok(Ok((*only).to_owned())),
        (None, several) => Ok(Err(format!(
            "its provisioner is not written down; say --provisioner with one of {}",
            several.join(", ")
        ))),
    }
}

/// Opens the database, while nobody writes to it.
fn open(path: &Path) -> anyhow::Result<File> {
    let name = path.display();
    let metadata = fs::metadata(path).with_context(|| format!("{name} can not be read"))?;
    if metadata.is_dir() {
        match is_badger(path) {
            true => bail!(
                "{name} is a badger database, which only badger itself can read: copy its accounts into a bbolt file, \
                 which takes the Go program of twenty lines in docs/MIGRATION.md, and import that"
            ),
            false => bail!(
                "{name} is a directory; give the bbolt file that db.dataSource names in step-ca's ca.json"
            ),
        }
    }
    // Reading from anything else may never end.
    if !metadata.is_file() {
        bail!("{name} is no file");
    }
    let file = File::open(path).with_context(|| format!("{name} can not be read"))?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => bail!(
            "{name} is in use, probably by step-ca or the Go acme-proxy: stop it first (a copy that is made while it \
             runs may be torn)"
        ),
        Err(error) => Err(error).with_context(|| format!("{name} can not be locked")),
    }
}

fn is_badger(directory: &Path) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        let extension = path.extension().unwrap_or_default();
        path.ends_with("MANIFEST") || extension == "vlog" || extension == "sst"
    })
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none()) || !directory.exists()
}

async fn take_over(
    config: Config,
    taken: &[Taken],
    dry_run: bool,
    summary: &mut Summary,
) -> anyhow::Result<()> {
    let mut operator = Operator::new(config);
    let mut rest = taken;
    while !rest.is_empty() {
        let accounts = page(rest)?;
        let answer = operator
            .carry_out(Request::ImportAccounts { accounts, dry_run })
            .await?;
        let outcomes: Vec<Imported> = serde_json::from_str(&answer)?;
        let (done, left) = rest.split_at_checked(outcomes.len()).unwrap_or((rest, &[]));
        if done.is_empty() {
            bail!("the daemon has taken no account, and does not say why");
        }
        summary.count(done, &outcomes);
        rest = left;
    }
    Ok(())
}

/// The first accounts, as many as fit into a request.
fn page(taken: &[Taken]) -> anyhow::Result<Vec<Account>> {
    let mut accounts = Vec::new();
    let mut bytes = 0;
    for taken in taken {
        bytes += serde_json::to_vec(&taken.account)?.len();
        if bytes > PAGE && !accounts.is_empty() {
            break;
        }
        accounts.push(taken.account.clone());
    }
    Ok(accounts)
}

/// What was done, in numbers.
struct Summary {
    imported: usize,
    deactivated: usize,
    before: usize,
    refused: Vec<(String, String)>,
    still_valid: Vec<String>,
    /// How many accounts have URLs that lead elsewhere, by what these begin with.
    elsewhere: BTreeMap<String, usize>,
    /// The provisioners of accounts, as far as they want an external account binding.
    binding: BTreeSet<String>,
}

impl Summary {
    fn new(config: &Config, accounts: &Accounts) -> Self {
        let mut elsewhere = BTreeMap::new();
        let mut binding = BTreeSet::new();
        for Taken { account, url_prefix } in &accounts.taken {
            let provisioner = account.provisioner();
            let metas = config.server.provisioners.iter();
            let wants_binding =
                |meta: &&crate::server::Meta| meta.name == provisioner && meta.external_account_required;
            binding.extend(metas.filter(wants_binding).map(|meta| meta.name.clone()));
            let prefix = url_prefix.as_ref();
            if let Some(prefix) = prefix.filter(|it| !config.server.begins_account_urls(provisioner, it)) {
                *elsewhere.entry(prefix.clone()).or_insert(0) += 1;
            }
        }
        Self {
            imported: 0,
            deactivated: 0,
            before: 0,
            refused: accounts.refused.clone(),
            still_valid: Vec::new(),
            elsewhere,
            binding,
        }
    }

    fn count(&mut self, taken: &[Taken], outcomes: &[Imported]) {
        for (Taken { account, .. }, outcome) in taken.iter().zip(outcomes) {
            let name = account.name().to_string();
            match outcome {
                Imported::Now => {
                    self.imported += 1;
                    self.deactivated += usize::from(account.status() == AccountStatus::Deactivated);
                }
                Imported::Before => self.before += 1,
                Imported::StillValid => {
                    self.before += 1;
                    self.still_valid.push(name);
                }
                Imported::Elsewhere(provisioner) => {
                    let why = format!("it is here already, under provisioner {provisioner}");
                    self.refused.push((name, why));
                }
                Imported::KeyTaken(holder) => {
                    let why = format!("account {holder} here has its key, and keeps it");
                    self.refused.push((name, why));
                }
            }
        }
    }

    fn text(&self, path: &Path, accounts: &Accounts, dry_run: bool) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text, path, accounts, dry_run);
        text
    }

    fn write(&self, out: &mut String, path: &Path, accounts: &Accounts, dry_run: bool) -> std::fmt::Result {
        writeln!(out, "{}: {} accounts", path.display(), accounts.records)?;
        let verb = if dry_run { "to be imported" } else { "imported" };
        writeln!(
            out,
            "  {verb}: {}, {} of them deactivated",
            self.imported, self.deactivated
        )?;
        writeln!(out, "  here before: {}", self.before)?;
        writeln!(out, "  not taken: {}", self.refused.len())?;
        for (id, why) in self.refused.iter().take(NAMED) {
            writeln!(out, "    {id}: {why}")?;
        }
        if self.refused.len() > NAMED {
            writeln!(out, "    and {} more", self.refused.len() - NAMED)?;
        }
        if accounts.contacts_left_out > 0 {
            writeln!(
                out,
                "  contacts left out: {}, which are no plain mailto: addresses",
                accounts.contacts_left_out
            )?;
        }
        for id in &self.still_valid {
            writeln!(out, "  {id} is deactivated in this database, and valid here")?;
        }
        for (prefix, count) in self.elsewhere.iter().take(PREFIXES) {
            writeln!(
                out,
                "  the clients of {count} know their accounts as {prefix}..., which is not an URL of this server: compare \
                 dnsNames, address and the provisioner's name"
            )?;
        }
        if self.elsewhere.len() > PREFIXES {
            let others = self.elsewhere.len() - PREFIXES;
            writeln!(out, "  and {others} other beginnings of URLs")?;
        }
        for provisioner in &self.binding {
            writeln!(
                out,
                "  provisioner {provisioner} requires EAB: imported accounts are bound to no key, and none limits them"
            )?;
        }
        if dry_run {
            writeln!(out, "Nothing was written: this was a dry run.")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_crafted_database_few_lines_are_said() {
        let refused = (0..50).map(|number| (format!("a{number}"), "it is damaged".to_owned()));
        let summary = Summary {
            imported: 0,
            deactivated: 0,
            before: 0,
            refused: refused.collect(),
            still_valid: Vec::new(),
            elsewhere: (0..50).map(|number| (format!("https://{number}/"), 1)).collect(),
            binding: BTreeSet::new(),
        };
        let text = summary.text(Path::new("db"), &Accounts::default(), true);
        assert!(
            text.contains("  not taken: 50\n    a0: it is damaged\n"),
            "{text}"
        );
        assert!(
            text.contains("    a19: it is damaged\n    and 30 more\n"),
            "{text}"
        );
        assert_eq!(
            text.matches("which is not an URL of this server").count(),
            10,
            "{text}"
        );
        assert!(text.contains("  and 40 other beginnings of URLs\n"), "{text}");
    }
}
