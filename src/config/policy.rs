//! `authority`: the provisioners and the rules about names.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use crate::config::absolute;
use crate::config::claims;
use crate::config::claims::Lifetimes;
use crate::config::external_account;
use crate::config::names::rules;
use crate::config::reader::Reported;
use crate::config::reader::Section;
use crate::config::reader::Text;
use crate::config::reader::all;
use crate::config::upstreams::chosen_upstream;
use crate::config::value::GoDuration;
use crate::policy::ENABLED_BY_DEFAULT;
use crate::policy::Provisioner;
use crate::policy::Settings;
use crate::policy::UpstreamName;
use crate::policy::blocked_keys::BlockedKeys;
use crate::policy::limits::Limits;
use crate::policy::routes::Routes;

/// How long orders may stay `processing` unless the file says otherwise; also how long they live before.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

const RAW_CSR: &str = "the CA gets the client's CSR as it is";

/// The settings, with the default deadline, limits and blocked keys, and nobody sent anywhere; `upstreams` are the names of all
/// upstreams, if they could be read, and `mode` is that of the file that is read.
pub(crate) fn read(
    authority: &Section<'_>,
    upstreams: Option<&[UpstreamName]>,
    mode: u32,
) -> Result<Settings, Reported> {
    let kind = kind(authority);
    let admin = authority.flag("enableAdmin").and_then(|enabled| match enabled {
        Some(true) => Err(authority.place("enableAdmin").error(
            "true: provisioners and policy are not kept in the database here; copy them into this file and write false",
        )),
        Some(false) | None => Ok(()),
    });
    let backdate = authority.parsed::<GoDuration>("backdate");
    if let Ok(Some(_)) = backdate {
        authority
            .place("backdate")
            .warn("has no effect here: the CA sets the dates of certificates");
    }
    let lifetimes = authority.section("claims", |section| claims::read(section, Lifetimes::OF_STEP_CA));
    authority.ignore("template", RAW_CSR);
    authority.ignore("disableIssuedAtCheck", "it is about tokens, which are not used");
    authority.ignore("disableGetSSHHosts", "no SSH certificates are issued");
    authority.ignore("authorityId", "nothing is reported to Smallstep");
    let deployment = deployment(authority);
    let rules = authority.section("policy", rules);
    let context = Context {
        upstreams,
        mode,
        lifetimes: lifetimes.unwrap_or(Lifetimes::OF_STEP_CA),
    };
    let provisioners = provisioners(authority, context);
    kind?;
    admin?;
    backdate?;
    lifetimes?;
    deployment?;
    Ok(Settings {
        provisioners: provisioners?,
        rules: rules?,
        routes: Routes::default(),
        issuance_deadline: DAY,
        order_lifetime: DAY,
        limits: Limits::default(),
        wishes: BTreeMap::new(),
        blocked_keys: BlockedKeys::default(),
    })
}

fn kind(authority: &Section<'_>) -> Result<(), Reported> {
    let others = [
        "certificateAuthority",
        "certificateAuthorityFingerprint",
        "certificateIssuer",
        "credentialsFile",
    ];
    for key in others {
        authority.ignore(
            key,
            "it is for other types of authority; the CA is authority.config.ca_url",
        );
    }
    let Some(text) = authority.text("type")? else {
        let place = authority.place("type");
        place.warn("is missing, and taken as \"externalcas\": nothing is signed here; write that");
        return Ok(());
    };
    let what = match text.value.to_ascii_lowercase().as_str() {
        "externalcas" => return Ok(()),
        "softcas" => "would sign certificates itself, which never happens here",
        "stepcas" => "has a step-ca sign, which is asked by ACME here, as any CA is",
        "cloudcas" => "has Google's CA Service sign, which knows no ACME; Google's public CA does",
        "vaultcas" => "has Vault sign, which is asked by ACME here, as any CA is",
        _ => "is no type of authority",
    };
    Err(text.wrong(format_args!(
        "{what}; write \"externalcas\", and the CA's ACME directory as authority.config.ca_url"
    )))
}

/// `linked` takes the provisioners from elsewhere, and step-ca itself refuses it without a token.
fn deployment(authority: &Section<'_>) -> Result<(), Reported> {
    match authority.text("deploymentType")? {
        Some(text) if text.value.eq_ignore_ascii_case("linked") => Err(text.wrong(
            "has Smallstep keep the provisioners, which is never asked; write them into this file, and remove it",
        )),
        Some(text) => {
            text.place.warn("has no effect here: there is no linked CA");
            Ok(())
        }
        None => Ok(()),
    }
}

/// What a provisioner can only be read with.
#[derive(Clone, Copy)]
struct Context<'a> {
    /// The names of all upstreams, if they could be read.
    upstreams: Option<&'a [UpstreamName]>,
    /// The mode of the file that is read.
    mode: u32,
    lifetimes: Lifetimes,
}

fn provisioners(authority: &Section<'_>, context: Context<'_>) -> Result<Vec<Provisioner>, Reported> {
    const FIX: &str = "write [{ \"type\": \"ACME\", \"name\": \"acme\" }]";
    let mut names = BTreeSet::new();
    let provisioners = authority.sections("provisioners", |section| {
        if !is_acme(section)? {
            return Ok(None);
        }
        let provisioner = provisioner(section, context)?;
        match names.insert(provisioner.name.clone()) {
            true => Ok(Some(provisioner)),
            false => {
                let place = section.place("name");
                Err(place.error(format_args!(
                    "\"{}\" is taken already; write another name",
                    provisioner.name
                )))
            }
        }
    })?;
    let provisioners: Vec<Provisioner> = provisioners.into_iter().flatten().collect();
    match provisioners.is_empty() {
        true => Err(authority
            .place("provisioners")
            .error(format_args!("has no ACME provisioner; {FIX}"))),
        false => Ok(provisioners),
    }
}

/// Whether the provisioner is one to serve. step-ca's other types have tokens, keys or clouds vouch for a client; a file
/// of step-ca's has one of them beside the ACME provisioner.
fn is_acme(section: &Section<'_>) -> Result<bool, Reported> {
    const OTHERS: [&str; 10] = [
        "JWK", "OIDC", "GCP", "AWS", "Azure", "X5C", "K8sSA", "SSHPOP", "SCEP", "Nebula",
    ];
    let text = section.required("type", "write \"ACME\"")?;
    let is = |kind: &&str| text.value.eq_ignore_ascii_case(kind);
    match (is(&"ACME"), OTHERS.iter().find(|kind| is(kind))) {
        (true, _) => Ok(true),
        (false, Some(kind)) => {
            section.ignore_all();
            section.warn(format_args!(
                "a {kind} provisioner has no effect here: nothing is signed for it; certificates are ordered by ACME"
            ));
            Ok(false)
        }
        (false, None) => {
            section.ignore_all();
            Err(text.wrong("is no type of provisioner; write \"ACME\", or remove it"))
        }
    }
}

fn provisioner(section: &Section<'_>, context: Context<'_>) -> Result<Provisioner, Reported> {
    let Context {
        upstreams,
        mode,
        lifetimes,
    } = context;
    let name = section.required("name", "write e.g. \"acme\"").and_then(name);
    let challenges = challenges(section);
    let upstream = chosen_upstream(section, upstreams);
    let external_accounts = external_account::read(section, upstreams, mode);
    let terms_of_service = url(section, "termsOfService");
    let website = url(section, "website");
    let caa_identities = section.texts("caaIdentities");
    let rules = section.section("policy", rules);
    let options = section.section("options", options);
    let claims = section.section("claims", |section| claims::read(section, lifetimes));
    section.ignore("forceCN", RAW_CSR);
    for key in ["attestationFormats", "attestationRoots"] {
        section.ignore(key, "device attestation is not served");
    }
    options?;
    claims?;
    let mut challenges = challenges?;
    if challenges.is_empty() {
        challenges = ENABLED_BY_DEFAULT.to_vec();
    }
    Ok(Provisioner {
        name: name?,
        challenges,
        terms_of_service: terms_of_service?,
        website: website?,
        caa_identities: caa_identities?.iter().map(|text| text.value.to_owned()).collect(),
        rules: rules?,
        upstream: upstream?,
        external_accounts: external_accounts?,
    })
}

/// The name is a segment of every URL, and clients are to write it as it is.
fn name(text: Text<'_>) -> Result<String, Reported> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@".contains(c);
    match text.value.chars().all(plain) && !matches!(text.value, "." | "..") {
        true => Ok(text.value.to_owned()),
        false => Err(text.wrong("can not stand in a URL as it is; write letters, digits, '-', '_' and '.'")),
    }
}

/// The challenges that the file enables, if it names any.
fn challenges<T: FromStr<Err: Display>>(section: &Section<'_>) -> Result<Vec<T>, Reported> {
    all(section.texts("challenges")?.iter().map(|text| {
        let parsed = text.value.to_ascii_lowercase().parse();
        parsed.map_err(|error| text.wrong(format_args!("can not be offered: {error}")))
    }))
}

/// A URL for clients, as it is written.
fn url(section: &Section<'_>, key: &'static str) -> Result<Option<String>, Reported> {
    let Some(text) = section.text(key)? else {
        return Ok(None);
    };
    match url::Url::parse(text.value) {
        Ok(url) if matches!(url.scheme(), "https" | "http") => Ok(Some(text.value.to_owned())),
        Ok(_) | Err(_) => Err(text.wrong("is no URL; write e.g. \"https://www.example.com/terms\"")),
    }
}

fn options(options: &Section<'_>) -> Result<(), Reported> {
    options.ignore("ssh", "no SSH certificates are issued");
    options.ignore("wire", "Wire's challenges are not served");
    let webhooks = options.sections("webhooks", |webhook| {
        webhook.ignore_all();
        Ok(())
    })?;
    if !webhooks.is_empty() {
        return Err(options.place("webhooks").error(
            "are not called by this version, and one that denies is not left unenforced; remove them, and restrict \
             the names with policy",
        ));
    }
    options.section("x509", |x509| {
        for key in ["template", "templateFile", "templateData"] {
            x509.ignore(key, RAW_CSR);
        }
        Ok(())
    })
}

/// `authority.config.blocked_keys`: the list of badkeys, read whole.
pub(crate) fn blocked_keys(config: &Section<'_>) -> Result<BlockedKeys, Reported> {
    const FIX: &str =
        "write the full path of a blocklist.dat that this user may read (badkeys --update-bl fetches it)";
    let Some(text) = config.text("blocked_keys")? else {
        return Ok(BlockedKeys::default());
    };
    let bytes = match std::fs::read(absolute(&text)?) {
        Ok(bytes) => bytes,
        Err(error) => return Err(text.wrong(format_args!("can not be read: {error}; {FIX}"))),
    };
    BlockedKeys::with_blocklist(&bytes)
        .map_err(|invalid| text.wrong(format_args!("is no list of badkeys: it {invalid}; {FIX}")))
}

/// `authority.config.issuance`: the deadline.
pub(crate) fn issuance_deadline(issuance: &Section<'_>) -> Result<Duration, Reported> {
    match issuance.parsed::<GoDuration>("deadline")? {
        None => Ok(DAY),
        Some(GoDuration(deadline)) if deadline < Duration::from_secs(60) => {
            let place = issuance.place("deadline");
            Err(place.error("is less than a minute, which no CA keeps; write e.g. \"24h\""))
        }
        Some(GoDuration(deadline)) => Ok(deadline),
    }
}
