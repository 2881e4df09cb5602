//! A CA: the way to it, what its directory says, the clock against its own, the EAB, and our account. No EAB is spent:
//! there is no registration here, only a look at the account that there is.

use std::time::Duration;

use jiff::Timestamp;
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use crate::acme::problem::cleaned;
use crate::app::deep::{Check, Facts, Finding};
use crate::config::Upstream;
use crate::upstream::account::overview::Confirmation;
use crate::upstream::fault::Fault;
use crate::upstream::http::{Client, Directory};
use crate::upstream::lookup;

/// How long a connection to the proxy may take.
const CONNECT: Duration = Duration::from_secs(10);

/// By so much the clock may be wrong without anybody noticing.
const GOOD_CLOCK: Duration = Duration::from_secs(60);

/// CAs, and our own checks of certificates, allow for so much.
const BAD_CLOCK: Duration = Duration::from_secs(300);

/// RFC 7518 §3.2: "A key of the same size as the hash output [...] or larger MUST be used".
const KEY_BYTES: usize = 32;

pub(crate) async fn look(facts: &Facts, place: usize) -> Vec<Finding> {
    let Some(upstream) = facts.config.upstreams.get(place) else {
        return Vec::new();
    };
    let (name, settings) = (upstream.name, &upstream.settings);
    let mut findings: Vec<Finding> = proxy(upstream).await.into_iter().collect();
    let directory = match Client::new(settings) {
        Ok(client) => client.dated_directory().await,
        Err(error) => {
            let text = error.to_string();
            let section = &settings.section;
            let fix = format!("correct {section}.ca_root, or install the ca-certificates package");
            findings.push(Finding::failure(Check::Ca, name, text, fix));
            return findings;
        }
    };
    match &directory {
        Ok((directory, date)) => {
            let answers = format!("{} answers", settings.directory);
            findings.push(Finding::ok(Check::Ca, name, answers));
            findings.push(clock(upstream, facts.clock.now(), *date));
            findings.push(terms(upstream, directory));
            findings.extend(profile(upstream, directory));
        }
        Err(fault) => findings.push(unreachable(upstream, fault)),
    }
    let directory = directory.ok().map(|(directory, _)| directory);
    let accounts = &facts.known().await.accounts;
    let confirmation = match accounts {
        Ok(accounts) => accounts.get(&name.to_string()).cloned(),
        Err(why) => Some(Err(why.clone())),
    };
    let confirmation = confirmation
        .unwrap_or_else(|| Err("the running daemon does not know this upstream; restart it".to_owned()));
    findings.push(eab(upstream, directory.as_ref(), &confirmation));
    findings.push(account(facts, upstream, facts.daemon_runs().await, confirmation));
    findings
}

/// What the environment says of a proxy: it is used for CAs and DNS providers, and for no challenge.
async fn proxy(upstream: &Upstream) -> Option<Finding> {
    let variable = |names: [&'static str; 2]| {
        let set = |name: &&str| std::env::var(name).is_ok_and(|value| !value.is_empty());
        names.into_iter().find(set)
    };
    let name = variable(["https_proxy", "HTTPS_PROXY"]).or_else(|| variable(["all_proxy", "ALL_PROXY"]))?;
    let fix = format!("correct {name} in the service's environment");
    let value = std::env::var(name).ok()?;
    let with_scheme = match value.contains("://") {
        true => value,
        false => format!("http://{value}"),
    };
    let ca = Url::parse(&upstream.settings.directory).ok()?;
    let excepted = variable(["no_proxy", "NO_PROXY"]).and_then(|name| std::env::var(name).ok());
    if excepted.is_some_and(|excepted| is_excepted(ca.host_str().unwrap_or_default(), &excepted)) {
        let text = "NO_PROXY excepts the CA: it is reached without the proxy";
        return Some(Finding::ok(Check::Proxy, upstream.name, text));
    }
    // The URL may have a password in it.
    let Some((host, port)) = Url::parse(&with_scheme)
        .ok()
        .and_then(|url| Some((url.host_str()?.to_owned(), url.port_or_known_default()?)))
    else {
        let text = format!("{name} is no URL of a proxy");
        return Some(Finding::failure(Check::Proxy, upstream.name, text, fix));
    };
    let connect = async { TcpStream::connect(&lookup::sockets(&format!("{host}:{port}")).await?[..]).await };
    let connected = timeout(CONNECT, connect).await;
    let why = match connected {
        Ok(Ok(_)) => {
            let text = format!("{host}:{port} ({name}) takes connections");
            return Some(Finding::ok(Check::Proxy, upstream.name, text));
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", CONNECT.as_secs()),
    };
    let text = format!("{host}:{port} ({name}) takes no connection: {why}");
    Some(Finding::failure(Check::Proxy, upstream.name, text, fix))
}

/// As programs read `NO_PROXY`: names with everything below them, and `*`.
fn is_excepted(host: &str, excepted: &str) -> bool {
    excepted.split(',').map(str::trim).any(|entry| {
        let entry = entry.trim_start_matches("*.").trim_start_matches('.');
        let below = |rest: &str| rest.is_empty() || rest.ends_with('.');
        entry == "*" || (!entry.is_empty() && host.strip_suffix(entry).is_some_and(below))
    })
}

fn unreachable(upstream: &Upstream, fault: &Fault) -> Finding {
    let (settings, said) = (&upstream.settings, fault.to_string());
    let section = &settings.section;
    let fix = match fault {
        _ if said.contains("UnknownIssuer") => format!(
            "the CA's own certificate comes from a root that this host does not trust: write its PEM file into {section}.ca_root"
        ),
        _ if said.contains("certificate") => {
            format!(
                "the CA's own certificate is not good for this URL: look at {section}.ca_url, and ask the CA"
            )
        }
        Fault::Unreachable(_) | Fault::TimedOut(_) => format!(
            "look at {section}.ca_url, DNS, the firewall and the proxy: curl -v '{}'",
            settings.directory
        ),
        Fault::Refused(_) | Fault::Nonsense(_) => {
            format!(
                "{section}.ca_url is not the URL of an ACME directory; take it from the CA's documentation"
            )
        }
        Fault::Foreign(_) => {
            format!("the directory leads elsewhere; look at {section}.ca_url, and ask the CA")
        }
    };
    let text = format!(
        "{} does not answer as an ACME directory: {said}",
        settings.directory
    );
    Finding::failure(Check::Ca, upstream.name, text, fix)
}

fn clock(upstream: &Upstream, now: Timestamp, theirs: Option<Timestamp>) -> Finding {
    let Some(theirs) = theirs else {
        let text = "the CA's answer has no date; the clock is compared with nothing";
        return Finding::ok(Check::Clock, upstream.name, text);
    };
    let off = now.duration_since(theirs);
    let by = match off.is_negative() {
        true => format!("{} s behind the CA's", off.unsigned_abs().as_secs()),
        false => format!("{} s ahead of the CA's", off.as_secs()),
    };
    let text = format!("this host's clock is {by}");
    let fix = "keep the clock right: timedatectl set-ntp true, or chrony";
    match off.unsigned_abs() {
        off if off > BAD_CLOCK => Finding::failure(Check::Clock, upstream.name, text, fix),
        off if off > GOOD_CLOCK => Finding::warning(Check::Clock, upstream.name, text, fix),
        _ => Finding::ok(Check::Clock, upstream.name, text),
    }
}

fn terms(upstream: &Upstream, directory: &Directory) -> Finding {
    let text = match directory.terms_of_service() {
        Some(url) => format!("a registration agrees to {}", cleaned(url, 200)),
        None => "the CA's directory names none".to_owned(),
    };
    Finding::ok(Check::Terms, upstream.name, text)
}

fn profile(upstream: &Upstream, directory: &Directory) -> Option<Finding> {
    let profile = upstream.settings.profile.as_ref()?;
    let offered: Vec<String> = directory.offers().profiles.into_keys().collect();
    Some(match offered.contains(profile) {
        true => Finding::ok(
            Check::Profile,
            upstream.name,
            format!("the CA offers {profile:?}"),
        ),
        false if offered.is_empty() => Finding::warning(
            Check::Profile,
            upstream.name,
            format!("{profile:?} is configured, and the CA offers no profiles: orders go without one"),
            format!("take out {}.profile", upstream.settings.section),
        ),
        false => Finding::warning(
            Check::Profile,
            upstream.name,
            format!(
                "{profile:?} is configured, and the CA does not offer it: orders go without one; it offers {}",
                offered.join(", ")
            ),
            format!("write one of those into {}.profile", upstream.settings.section),
        ),
    })
}

/// The form alone: only a registration tells whether the CA takes it, and that spends it.
fn eab(
    upstream: &Upstream,
    directory: Option<&Directory>,
    confirmation: &Result<Confirmation, String>,
) -> Finding {
    let (name, section) = (upstream.name, &upstream.settings.section);
    let is_wanted = directory.map(Directory::external_account_required);
    let has_account = matches!(confirmation, Ok(Confirmation::Known { .. }));
    let Some(eab) = &upstream.settings.eab else {
        return match (is_wanted, has_account) {
            (Some(true), false) => Finding::failure(
                Check::Eab,
                name,
                "the CA wants an External Account Binding, and none is configured",
                format!("write the CA's values into {section}.eab_kid and eab_hmac_key"),
            ),
            (Some(true), true) => Finding::ok(Check::Eab, name, "none, and there is an account already"),
            (Some(false), _) => Finding::ok(Check::Eab, name, "none, and the CA does not ask for one"),
            (None, _) => Finding::ok(Check::Eab, name, "none"),
        };
    };
    let odd = |c: char| c.is_whitespace() || c.is_control();
    if eab.kid.reveal().chars().any(odd) {
        return Finding::failure(
            Check::Eab,
            name,
            "eab_kid has a space or a line break in it",
            format!("write {section}.eab_kid exactly as the CA shows it"),
        );
    }
    let bytes = eab.hmac_key.reveal().len();
    if bytes < KEY_BYTES {
        return Finding::warning(
            Check::Eab,
            name,
            format!("eab_hmac_key is {bytes} bytes long, and CAs give out {KEY_BYTES} or more: is it cut?"),
            format!("write {section}.eab_hmac_key exactly as the CA shows it"),
        );
    }
    let form = format!("its form is right: a key id, and base64url of {bytes} bytes");
    match (has_account, is_wanted) {
        (true, _) => Finding::ok(
            Check::Eab,
            name,
            format!("{form}; it is not needed any more, for there is an account"),
        ),
        (false, Some(false)) => Finding::warning(
            Check::Eab,
            name,
            format!("{form}; but the CA's directory does not ask for one"),
            format!("look whether {section}.ca_url is the URL that belongs to the EAB"),
        ),
        (false, Some(true) | None) => Finding::ok(
            Check::Eab,
            name,
            format!("{form}; whether the CA takes it shows at the registration, which it was kept for"),
        ),
    }
}

fn account(
    facts: &Facts,
    upstream: &Upstream,
    daemon_runs: bool,
    confirmation: Result<Confirmation, String>,
) -> Finding {
    let (name, section) = (upstream.name, &upstream.settings.section);
    // Without the name the commands would act on another account where there are several.
    let of_it = format!("--upstream {name} {}", facts.path.display());
    let failure = |text: String, fix: String| Finding::failure(Check::Account, name, text, fix);
    match confirmation {
        Ok(Confirmation::Known { url }) => {
            let url = cleaned(&url, 200);
            Finding::ok(Check::Account, name, format!("the CA knows it: {url}"))
        }
        Ok(Confirmation::Lost { url }) => failure(
            format!(
                "the CA does not know the account {} any more, or has deactivated it; orders wait",
                cleaned(&url, 200)
            ),
            format!(
                "ask the CA to reactivate it, or make another one, which spends the EAB: acme-proxy upstream register \
                 --again {of_it}"
            ),
        ),
        Ok(Confirmation::Unclear { url, why }) => Finding::warning(
            Check::Account,
            name,
            format!(
                "{} is stored, and the CA does not tell whether it is good: {why}",
                cleaned(&url, 200)
            ),
            "look at the lines about the CA above, and try again",
        ),
        Ok(Confirmation::Unreadable) => failure(
            "its record can not be read, and no other account is made".to_owned(),
            format!("restore a backup, or acme-proxy upstream import --replace ACCOUNT.json {of_it}"),
        ),
        Ok(Confirmation::Registering) => Finding::warning(
            Check::Account,
            name,
            "a registration has begun, and the CA has not named the account; the daemon asks again with the same key",
            format!(
                "look at the daemon's log; if the CA never names it: acme-proxy upstream export ACCOUNT.json {of_it}, \
                 then write its URL into the file, and acme-proxy upstream import --replace ACCOUNT.json {of_it}"
            ),
        ),
        Ok(Confirmation::Unregistered) if daemon_runs => failure(
            "there is none, although the daemon runs: the CA has not taken the registration".to_owned(),
            format!("look at the line daemon below, and at {section}.eab_kid and eab_hmac_key"),
        ),
        Ok(Confirmation::Unregistered) => Finding::ok(
            Check::Account,
            name,
            "there is none yet; the first start registers one, which spends the EAB",
        ),
        Err(why) => Finding::warning(
            Check::Account,
            name,
            format!("whether there is one was not found out: {}", cleaned(&why, 300)),
            "run this as the daemon's user, with a daemon of this version or none",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_excepts_a_name_and_what_is_below_it() {
        for (host, excepted, is) in [
            ("ca.example.com", "example.com", true),
            ("ca.example.com", "localhost, .example.com", true),
            ("ca.example.com", "*.example.com", true),
            ("ca.example.com", "*", true),
            ("ca.notexample.com", "example.com", false),
            ("ca.example.com", "", false),
            ("ca.example.com", "other.example.com,", false),
        ] {
            assert_eq!(is_excepted(host, excepted), is, "{host} {excepted}");
        }
    }
}
