//! `authority.config.upstreams`: more CAs besides the one of `authority.config`, each with a name and the same keys; who
//! goes where; and which one stands in for another.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::reader::Place;
use crate::config::reader::Reported;
use crate::config::reader::Section;
use crate::config::reader::Text;
use crate::config::reader::all;
use crate::config::upstream;
use crate::config::value::GoDuration;
use crate::policy::UpstreamName;
use crate::policy::routes::Domain;
use crate::policy::routes::Routes;
use crate::policy::wishes::WishRules;
use crate::upstream::Settings;
use crate::worker::upstream::Failover;

/// How long a CA must have failed unless the file says otherwise.
const FAILOVER_AFTER: Duration = Duration::from_secs(300);

/// A CA with a name.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// The name.
    pub name: UpstreamName,
    /// How the CA is reached, and who we are there.
    pub settings: Settings,
    /// Which one stands in for it, if one does.
    pub failover: Option<Failover>,
    /// What clients may ask of it beyond names.
    pub wishes: WishRules,
}

/// All upstreams.
pub(crate) struct Upstreams {
    /// The default one first.
    pub(crate) all: Vec<Upstream>,
    /// Who goes where.
    pub(crate) routes: Routes,
}

/// An upstream as far as it can be read without knowing the others.
struct Alone<'a> {
    name: UpstreamName,
    settings: Settings,
    wishes: WishRules,
    domains: Vec<Text<'a>>,
    failover: Option<(Text<'a>, Duration)>,
    eab_kid: Place<'a>,
}

/// The upstreams; `mode` is that of the file that is read.
pub(crate) fn read(config: &Section<'_>, mode: u32) -> Result<Upstreams, Reported> {
    let default = alone(config, UpstreamName::DEFAULT, mode);
    let mut taken = BTreeSet::from([UpstreamName::DEFAULT]);
    let others = config.sections("upstreams", |section| {
        let name = name(section, &mut taken);
        let domains = section.texts("domains");
        let alone = alone(section, name.unwrap_or_default(), mode);
        let (_, domains, alone) = (name?, domains?, alone?);
        Ok(Alone { domains, ..alone })
    });
    let mut found = vec![default?];
    found.extend(others?);
    let names: Vec<UpstreamName> = found.iter().map(|alone| alone.name).collect();
    let accounts = check_accounts(&found);
    let routes = routes(&found);
    let all = all(found.into_iter().map(|alone| {
        let failover = alone.failover.map(|(to, after)| {
            let to = known(&to, &names)?;
            Ok(Failover { to, after })
        });
        Ok(Upstream {
            name: alone.name,
            settings: alone.settings,
            failover: failover.transpose()?,
            wishes: alone.wishes,
        })
    }));
    accounts?;
    Ok(Upstreams {
        all: all?,
        routes: routes?,
    })
}

fn name(section: &Section<'_>, taken: &mut BTreeSet<UpstreamName>) -> Result<UpstreamName, Reported> {
    let text = section.required("name", "write e.g. \"letsencrypt\"")?;
    let name = text.parsed()?;
    match taken.insert(name) {
        true => Ok(name),
        false if name.is_default() => {
            Err(text.wrong("is the one that authority.config itself describes; write another name"))
        }
        false => Err(text.wrong("is taken already; write another name")),
    }
}

fn alone<'a>(section: &Section<'a>, name: UpstreamName, mode: u32) -> Result<Alone<'a>, Reported> {
    let settings = upstream::read(section, mode);
    let wishes = upstream::wishes(section);
    let failover = failover(section, name);
    Ok(Alone {
        name,
        settings: settings?,
        wishes: wishes?,
        domains: Vec::new(),
        failover: failover?,
        eab_kid: section.place("eab_kid"),
    })
}

fn failover<'a>(section: &Section<'a>, name: UpstreamName) -> Result<Option<(Text<'a>, Duration)>, Reported> {
    let to = section.text("failover");
    let after = section.parsed::<GoDuration>("failover_after");
    let place = section.place("failover_after");
    match (to?, after?) {
        (Some(to), _) if to.value == name.as_str() => {
            Err(to.wrong("is this upstream itself; write the name of another one"))
        }
        (Some(_), Some(GoDuration(after))) if after < Duration::from_secs(1) => {
            Err(place.error("is less than a second; write e.g. \"5m\""))
        }
        (Some(to), after) => Ok(Some((
            to,
            after.map_or(FAILOVER_AFTER, |GoDuration(after)| after),
        ))),
        (None, Some(_)) => {
            place.warn("has no effect here: failover names no upstream");
            Ok(None)
        }
        (None, None) => Ok(None),
    }
}

/// The upstream that the text names.
pub(crate) fn known(text: &Text<'_>, names: &[UpstreamName]) -> Result<UpstreamName, Reported> {
    let named = text.value.parse().ok().filter(|name| names.contains(name));
    named.ok_or_else(|| {
        let names: Vec<&str> = names.iter().map(UpstreamName::as_str).collect();
        text.wrong(format_args!(
            "is no upstream of this file; there are: {}",
            names.join(", ")
        ))
    })
}

/// One EAB is one account: two upstreams with it would be one to the CA, which counts and pauses by the account.
fn check_accounts(found: &[Alone<'_>]) -> Result<(), Reported> {
    let mut accounts = BTreeMap::new();
    all(found.iter().map(|alone| {
        let Some(eab) = &alone.settings.eab else {
            return Ok(());
        };
        match accounts.insert((&alone.settings.directory, &eab.kid), alone.name) {
            None => Ok(()),
            Some(other) => Err(alone.eab_kid.error(format_args!(
                "is the EAB of upstream \"{other}\" at the same CA; write that of another account"
            ))),
        }
    }))
    .map(drop)
}

fn routes(found: &[Alone<'_>]) -> Result<Routes, Reported> {
    let mut claimed: BTreeMap<Domain, UpstreamName> = BTreeMap::new();
    let mut claims = |text: &Text<'_>, name: UpstreamName| {
        let domain: Domain = text.parsed()?;
        match claimed.insert(domain.clone(), name) {
            None => Ok(domain),
            Some(other) => Err(text.wrong(format_args!(
                "is claimed by upstream \"{other}\" already; leave it to one of them"
            ))),
        }
    };
    let named = found.iter().filter(|alone| !alone.name.is_default());
    let upstreams = all(named.map(|alone| {
        let domains = all(alone.domains.iter().map(|text| claims(text, alone.name)))?;
        Ok((alone.name, domains))
    }))?;
    Ok(Routes { upstreams })
}

/// `upstream` of a provisioner or of a key. Where the upstreams themselves can not be read, that is the error.
pub(crate) fn chosen_upstream(
    section: &Section<'_>,
    upstreams: Option<&[UpstreamName]>,
) -> Result<Option<UpstreamName>, Reported> {
    match (section.text("upstream")?, upstreams) {
        (Some(text), Some(upstreams)) => known(&text, upstreams).map(Some),
        (Some(_), None) | (None, _) => Ok(None),
    }
}
