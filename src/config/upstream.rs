//! `authority.config`: the CA, who we are there, and the secrets for it.

use std::time::Duration;

use crate::acme::secret::Secret;
use crate::config::dns01;
use crate::config::reader::Reported;
use crate::config::reader::Section;
use crate::config::secret::OTHERS;
use crate::config::secret::resolved;
use crate::config::secret::stands_here;
use crate::config::server::pem_file;
use crate::config::value::base64url;
use crate::policy::wishes::WishRules;
use crate::upstream::Eab;
use crate::upstream::Settings;

/// The settings; `mode` is that of the file that is read.
pub(crate) fn read(config: &Section<'_>, mode: u32) -> Result<Settings, Reported> {
    let directory = directory(config);
    let roots = config.text("ca_root").and_then(|text| match text {
        Some(text) => pem_file(&text, "CERTIFICATE").map(Some),
        None => Ok(None),
    });
    let email = email(config);
    let eab = eab(config);
    let dns01 = dns01::read(config);
    let lifetime = lifetime(config);
    let profile = config.text("profile");
    let (eab, dns01) = (eab?, dns01?);
    if eab.is_none() && dns01.is_none() {
        config.place("eab_kid").warn(
            "there is neither an External Account Binding (eab_kid, eab_hmac_key) nor dns01_txt; most CAs will refuse \
             to register the account, or to issue",
        );
    }
    let inline = dns01.as_ref().is_some_and(|solving| solving.secrets_stand_here)
        || ["eab_kid", "eab_hmac_key"]
            .into_iter()
            .any(|key| is_inline(config, key));
    if inline {
        config.place("eab_hmac_key").keeps_secret(None);
    }
    if inline && mode & OTHERS != 0 {
        config.place("eab_hmac_key").warn(format_args!(
            "this file holds secrets, and every user of this host may read or change it (mode {:03o}); run chmod 640",
            mode & 0o777
        ));
    }
    Ok(Settings {
        section: config.path().to_owned(),
        directory: directory?,
        roots: roots?,
        email: email?,
        eab,
        dns01: dns01.map(|solving| solving.dns01),
        lifetime: lifetime?,
        profile: profile?.map(|text| text.value.to_owned()),
    })
}

/// What clients may ask of this CA beyond names.
pub(crate) fn wishes(config: &Section<'_>) -> Result<WishRules, Reported> {
    let profiles = config.texts("profiles");
    let validity = config.flag("client_validity")?;
    let profiles: Vec<String> = profiles?.into_iter().map(|text| text.value.to_owned()).collect();
    Ok(WishRules {
        profiles: config.has("profiles").then_some(profiles),
        validity: validity.unwrap_or(false),
    })
}

/// The Go program's 0 leaves it to the CA.
fn lifetime(config: &Section<'_>) -> Result<Option<Duration>, Reported> {
    let days = config.number::<u32>("certlifetime", "a number of days, e.g. 90")?;
    let days = days.filter(|(days, _)| *days > 0);
    Ok(days.map(|(days, _)| Duration::from_secs(u64::from(days) * 86_400)))
}

/// The URL stays byte for byte as it is: CAs put meaning into its query.
fn directory(config: &Section<'_>) -> Result<String, Reported> {
    const FIX: &str = "write the CA's directory URL, e.g. \"https://acme.example.com/v2/directory\"";
    let text = config.required("ca_url", FIX)?;
    let Ok(url) = url::Url::parse(text.value) else {
        return Err(text.wrong(format_args!("is not a URL; {FIX}")));
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(text.place.error(format_args!(
            "has a user or password in it, which ACME does not use; {FIX}"
        )));
    }
    let blank = text.value.chars().any(|c| c.is_whitespace() || c.is_control());
    match url.scheme() == "https" && url.has_host() && url.fragment().is_none() && !blank {
        true => Ok(text.value.to_owned()),
        false => Err(text.wrong(format_args!("is not an https URL; {FIX}"))),
    }
}

fn email(config: &Section<'_>) -> Result<Option<String>, Reported> {
    let Some(text) = config.text("account_email")? else {
        return Ok(None);
    };
    let address = text.value.strip_prefix("mailto:").unwrap_or(text.value);
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !",?<>".contains(c);
    match address.split_once('@') {
        Some((user, host)) if !user.is_empty() && !host.is_empty() && address.chars().all(plain) => {
            Ok(Some(address.to_owned()))
        }
        Some(_) | None => Err(text.wrong("is no e-mail address; write e.g. \"certadmin@example.com\"")),
    }
}

fn eab(config: &Section<'_>) -> Result<Option<Eab>, Reported> {
    let kid = secret(config, "eab_kid");
    let key = secret(config, "eab_hmac_key");
    match (kid?, key?) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(config
            .place("eab_hmac_key")
            .error("is missing; write both parts of the binding")),
        (None, Some(_)) => Err(config
            .place("eab_kid")
            .error("is missing; write both parts of the binding")),
        (Some(kid), Some(key)) => {
            let place = config.place("eab_hmac_key");
            let Some(bytes) = base64url(key.reveal()) else {
                return Err(place.error("[redacted] is not base64url; write it exactly as the CA shows it"));
            };
            // RFC 7518 §3.2: a key of at least the hash's size MUST be used with HS256.
            if bytes.len() < 32 {
                place.warn(format_args!(
                    "is only {} bytes long, where RFC 7518 asks for 32; is it complete?",
                    bytes.len()
                ));
            }
            Ok(Some(Eab {
                kid,
                hmac_key: Secret::new(bytes),
            }))
        }
    }
}

fn is_inline(config: &Section<'_>, key: &'static str) -> bool {
    let text = config.text(key).ok().flatten();
    text.is_some_and(|text| stands_here(&text))
}

fn secret(config: &Section<'_>, key: &'static str) -> Result<Option<Secret>, Reported> {
    config.text(key)?.map(|text| resolved(&text)).transpose()
}
