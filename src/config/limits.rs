//! `authority.config.limits`: how much one account, one address or one name may ask for.

use std::str::FromStr;

use crate::config::reader::Reported;
use crate::config::reader::Section;
use crate::policy::limits::Limits;
use crate::policy::limits::MAX_NAMES_PER_ORDER;
use crate::server::PeerLimits;

/// The limits that need an account, and those that need only a connection.
pub(crate) fn read(section: &Section<'_>) -> Result<(Limits, PeerLimits), Reported> {
    let (limits, peers) = (Limits::default(), PeerLimits::default());
    let accounts = limit(
        section,
        "accounts_per_address_per_hour",
        limits.accounts_per_address_per_hour,
    );
    let orders = limit(
        section,
        "orders_per_account_per_hour",
        limits.orders_per_account_per_hour,
    );
    let pending = limit(
        section,
        "pending_orders_per_account",
        limits.pending_orders_per_account,
    );
    let failed = limit(
        section,
        "failed_validations_per_name_per_hour",
        limits.failed_validations_per_name_per_hour,
    );
    let names = names_per_order(section);
    let bad = limit(
        section,
        "bad_requests_per_address_per_minute",
        peers.bad_requests_per_address_per_minute,
    );
    let connections = limit(section, "connections_per_address", peers.connections_per_address);
    let in_all = limit(section, "connections", peers.connections);
    let limits = Limits {
        accounts_per_address_per_hour: accounts?,
        orders_per_account_per_hour: orders?,
        pending_orders_per_account: pending?,
        failed_validations_per_name_per_hour: failed?,
        names_per_order: names?,
    };
    let peers = PeerLimits {
        bad_requests_per_address_per_minute: bad?,
        connections_per_address: connections?,
        connections: in_all?,
    };
    Ok((limits, peers))
}

fn limit<T: FromStr>(section: &Section<'_>, key: &'static str, default: T) -> Result<T, Reported> {
    let written = section.number(key, "a whole number, or 0 for no limit")?;
    Ok(written.map_or(default, |(limit, _)| limit))
}

fn names_per_order(section: &Section<'_>) -> Result<usize, Reported> {
    let what = format!("a number between 1 and {MAX_NAMES_PER_ORDER}");
    match section.number::<usize>("names_per_order", &what)? {
        Some((names, place)) if names > MAX_NAMES_PER_ORDER => Err(place.error(format_args!(
            "{names} is more than the public CAs take in one order; write {what}"
        ))),
        Some((0, _)) | None => Ok(MAX_NAMES_PER_ORDER),
        Some((names, _)) => Ok(names),
    }
}
