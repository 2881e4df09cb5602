//! Reads the history of a run, and the books of the CA, and names every word that was not kept. It asks nobody and knows
//! no clock: the same record gives the same verdict.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::check;
use crate::history::{Record, Said, Status, Wish};

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// What was acknowledged is not there at the end, or was denied in between.
    Lost,
    /// A status went where RFC 8555 §7.1.6 shows no way.
    Backwards,
    /// An order never ended.
    Stuck,
    /// An order ended as invalid, although its names can be proved and the CA refuses nothing.
    Failed,
    /// The CA has sold more certificates for some names than there are orders that show one.
    IssuedTwice,
    /// A certificate that does not fit its order, that two orders have, that changes, or that the CA has not sold.
    MixedUp,
    /// More than one account at the CA, or more than one use of the binding.
    Account,
}

impl Kind {
    /// All of them, with what they are called.
    pub(crate) const ALL: [(Self, &str); 7] = [
        (Self::Lost, "lost"),
        (Self::Backwards, "backwards"),
        (Self::Stuck, "stuck"),
        (Self::Failed, "failed"),
        (Self::IssuedTwice, "issued twice"),
        (Self::MixedUp, "mixed up"),
        (Self::Account, "accounts at the CA"),
    ];
}

/// A word that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) kind: Kind,
    pub(crate) what: String,
}

/// An order in the books of the CA.
#[derive(Debug, Clone)]
pub(crate) struct Sale {
    pub(crate) names: Vec<String>,
    /// Finalize requests that were accepted.
    pub(crate) finalizes: u64,
    /// Certificates.
    pub(crate) issued: u64,
}

/// What the CA knows at the end.
#[derive(Debug, Clone)]
pub(crate) struct Books {
    pub(crate) accounts: usize,
    pub(crate) eab_uses: usize,
    pub(crate) sales: Vec<Sale>,
    /// The root that every chain must lead to, PEM.
    pub(crate) root_pem: String,
    /// The names of the daemon's own certificate, which is bought once.
    pub(crate) own_names: Vec<String>,
}

/// Every word that was not kept.
pub(crate) fn violations(record: &Record, books: &Books) -> Vec<Violation> {
    let mut found = Found::default();
    let objects = found.follow(record);
    found.look_at_orders(record, &objects, books);
    found.compare(record, &objects, books);
    found.0
}

/// What the answers say about one object.
#[derive(Default)]
struct Object<'a> {
    latest: Option<&'a Said>,
    chain: Option<&'a str>,
    seen_last: bool,
    chain_seen_last: bool,
}

impl Object<'_> {
    fn is(&self, status: Status) -> bool {
        self.latest == Some(&Said::Order(status))
    }
}

type Objects<'a> = HashMap<&'a str, Object<'a>>;

#[derive(Default)]
struct Found(Vec<Violation>);

impl Found {
    fn add(&mut self, kind: Kind, what: String) {
        self.0.push(Violation { kind, what });
    }

    /// Reads the answers one after the other. What was acknowledged must be there in the last look, too.
    fn follow<'a>(&mut self, record: &'a Record) -> Objects<'a> {
        let mut objects = Objects::new();
        for (number, answer) in record.answers.iter().enumerate() {
            let is_last_look = number >= record.before_last_look;
            let by = format!("{} at replica {}", answer.url, answer.replica);
            let object = objects.entry(answer.url.as_str()).or_default();
            match &answer.said {
                Said::Denied(why) => self.add(Kind::Lost, format!("{by}: {why}")),
                Said::Chain(chain) => {
                    if object.chain.is_some_and(|before| before != chain) {
                        self.add(Kind::MixedUp, format!("{by} has another certificate than before"));
                    }
                    object.chain = Some(chain);
                    object.chain_seen_last |= is_last_look;
                }
                said => {
                    if let Some(before) = object.latest
                        && !may_become(before, said)
                    {
                        self.add(Kind::Backwards, format!("{by} was {before:?}, and is {said:?}"));
                    }
                    object.latest = Some(said);
                    object.seen_last |= is_last_look;
                }
            }
        }
        for (url, object) in &objects {
            let is_gone = object.latest.is_some() && !object.seen_last;
            if is_gone || object.chain.is_some() && !object.chain_seen_last {
                self.add(
                    Kind::Lost,
                    format!("{url} was {:?}, and is not there at the end", object.latest),
                );
            }
        }
        objects
    }

    /// Each order has ended, with a certificate of its own.
    fn look_at_orders(&mut self, record: &Record, objects: &Objects<'_>, books: &Books) {
        let mut sold = HashSet::new();
        for wish in &record.wishes {
            let Some(object) = objects.get(wish.url.as_str()) else {
                self.add(Kind::Lost, format!("{} was never seen again", wish.url));
                continue;
            };
            match object.latest {
                Some(Said::Order(Status::Valid)) => {}
                Some(Said::Order(Status::Invalid)) => {
                    self.add(Kind::Failed, format!("{} for {:?}", wish.url, wish.names));
                    continue;
                }
                other => {
                    self.add(Kind::Stuck, format!("{} is {other:?} at the end", wish.url));
                    continue;
                }
            }
            let Some(chain) = object.chain else {
                self.add(
                    Kind::Lost,
                    format!("{} is valid, and has no certificate", wish.url),
                );
                continue;
            };
            if let Err(why) = fits(chain, wish, &books.root_pem) {
                self.add(Kind::MixedUp, format!("{}: {why:#}", wish.url));
            }
            if !sold.insert(chain) {
                self.add(
                    Kind::MixedUp,
                    format!("{} has another order's certificate", wish.url),
                );
            }
        }
    }

    /// The CA has sold as many certificates for each set of names as there are orders that show one.
    fn compare(&mut self, record: &Record, objects: &Objects<'_>, books: &Books) {
        if (books.accounts, books.eab_uses) != (1, 1) {
            let (accounts, uses) = (books.accounts, books.eab_uses);
            self.add(
                Kind::Account,
                format!("{accounts} accounts, {uses} uses of the binding"),
            );
        }
        // The orders that show a certificate, and the certificates that were sold.
        let mut balance = BTreeMap::<String, (u64, u64)>::new();
        balance.entry(set_of(&books.own_names)).or_default().0 = 1;
        for wish in &record.wishes {
            let shows_one = objects
                .get(wish.url.as_str())
                .is_some_and(|object| object.is(Status::Valid));
            balance.entry(set_of(&wish.names)).or_default().0 += u64::from(shows_one);
        }
        for sale in &books.sales {
            balance.entry(set_of(&sale.names)).or_default().1 += sale.issued;
            if sale.finalizes > 1 || sale.issued > 1 {
                let (finalizes, issued) = (sale.finalizes, sale.issued);
                let what = format!(
                    "{:?}: one order, {finalizes} finalizes, {issued} certificates",
                    sale.names
                );
                self.add(Kind::IssuedTwice, what);
            }
        }
        for (names, (shown, sold)) in balance {
            let what = format!("{names}: {shown} orders with a certificate, {sold} sold");
            match sold.cmp(&shown) {
                std::cmp::Ordering::Less => self.add(Kind::MixedUp, what),
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Greater => self.add(Kind::IssuedTwice, what),
            }
        }
    }
}

/// Whether what was said first allows what is said next: RFC 8555 §7.1.6, with steps in between that nobody saw.
fn may_become(before: &Said, after: &Said) -> bool {
    use Status::{Deactivated, Expired, Invalid, Pending, Processing, Ready, Revoked, Valid};
    if before == after {
        return true;
    }
    match (before, after) {
        (Said::Order(before), Said::Order(after)) => match before {
            Pending => matches!(after, Ready | Processing | Valid | Invalid),
            Ready => matches!(after, Processing | Valid | Invalid),
            Processing => matches!(after, Valid | Invalid),
            _ => false,
        },
        (Said::Authorization(before), Said::Authorization(after)) => match before {
            Pending => matches!(after, Valid | Invalid | Deactivated | Expired | Revoked),
            Valid => matches!(after, Deactivated | Expired | Revoked),
            _ => false,
        },
        (Said::Challenge(before), Said::Challenge(after)) => match before {
            Pending => matches!(after, Processing | Valid | Invalid),
            Processing => matches!(after, Valid | Invalid),
            _ => false,
        },
        // No client here gives its account up, and nobody revokes it.
        _ => false,
    }
}

/// Whether the certificate is the one that was wished for.
fn fits(chain: &str, wish: &Wish, root_pem: &str) -> anyhow::Result<()> {
    let names: Vec<&str> = wish.names.iter().map(String::as_str).collect();
    check::check(chain, &wish.public_key, &names, root_pem).map(drop)
}

fn set_of(names: &[String]) -> String {
    let mut names = names.to_vec();
    names.sort();
    names.join(",")
}

#[cfg(test)]
mod tests;
