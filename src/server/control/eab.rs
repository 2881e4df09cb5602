//! The operator's commands on external account keys.

use std::fmt::Write as _;

use crate::ra::RegistrationAuthority;
use crate::ra::external_account::{KeyEntry, KeyError, NewKey};

/// Makes a key and shows it, this once.
pub(crate) async fn add(ra: &RegistrationAuthority, new: NewKey) -> Result<String, KeyError> {
    let key = ra.add_external_account_key(new).await?;
    let provisioner = key.provisioner();
    let not_needed = match ra.requires_external_account(provisioner) {
        true => String::new(),
        false => format!(
            "Clients may register without a key: requireEAB of provisioner {provisioner} is not true.\n"
        ),
    };
    Ok(format!(
        "{not_needed}This key for provisioner {provisioner} is shown now and never again:\n\
         --eab-kid {} --eab-hmac-key {}\n",
        key.kid(),
        key.mac_key().encoded()
    ))
}

/// Shows all keys without their secrets.
pub(crate) async fn list(ra: &RegistrationAuthority) -> Result<String, KeyError> {
    Ok(listed(&ra.external_account_keys().await?))
}

/// Revokes a key.
pub(crate) async fn revoke(
    ra: &RegistrationAuthority,
    kid: &str,
    provisioner: Option<&str>,
) -> Result<String, KeyError> {
    let provisioner = ra.revoke_external_account_key(kid, provisioner).await?;
    Ok(format!(
        "The key {kid} of provisioner {provisioner} is revoked: no account can be made with it, and those that were can \
         order nothing more.\n"
    ))
}

fn listed(keys: &[KeyEntry]) -> String {
    if keys.is_empty() {
        return "There is no external account key; add one with: acme-proxy eab add\n".to_owned();
    }
    let mut text = String::new();
    for key in keys {
        // Writing to a string does not fail.
        let _ = write_entry(&mut text, key);
    }
    text
}

fn write_entry(out: &mut String, key: &KeyEntry) -> std::fmt::Result {
    writeln!(out, "{}", key.kid)?;
    let place = if key.configured { "ca.json" } else { "the store" };
    writeln!(out, "  provisioner: {} (in {place})", key.provisioner)?;
    match (key.one_time, key.used) {
        (false, _) => writeln!(out, "  for: any number of accounts")?,
        (true, None) => writeln!(out, "  for: one account, not used yet")?,
        (true, Some((account, at))) => {
            writeln!(out, "  for: one account, used by {account} at {at:.0}")?;
        }
    }
    writeln!(out, "  names: {}", key.rules.names)?;
    if !key.rules.clients.is_empty() {
        writeln!(out, "  clients: {}", key.rules.clients)?;
    }
    for limit in &key.rules.per_name {
        writeln!(out, "  limit: {limit}")?;
    }
    if let Some(upstream) = key.upstream {
        writeln!(out, "  upstream: {upstream}")?;
    }
    if let Some(expires) = key.expires {
        writeln!(out, "  expires: {expires:.0}")?;
    }
    if let Some(revoked) = key.revoked {
        writeln!(out, "  revoked: {revoked:.0}")?;
    }
    Ok(())
}
