//! `requireEAB` and `eabKeys` of a provisioner: whether clients need an external account key, and which there are besides
//! those in the store.

use std::collections::BTreeSet;

use crate::config::names::rules;
use crate::config::reader::Reported;
use crate::config::reader::Section;
use crate::config::secret::OTHERS;
use crate::config::secret::resolved;
use crate::config::secret::stands_here;
use crate::config::upstreams::chosen_upstream;
use crate::config::value::base64url;
use crate::policy::ConfiguredKey;
use crate::policy::ExternalAccounts;
use crate::policy::UpstreamName;

/// The rules; `upstreams` are the names of all upstreams, if they could be read, and `mode` is that of the file that is
/// read.
pub(crate) fn read(
    provisioner: &Section<'_>,
    upstreams: Option<&[UpstreamName]>,
    mode: u32,
) -> Result<ExternalAccounts, Reported> {
    let required = provisioner.flag("requireEAB");
    let mut kids = BTreeSet::new();
    let keys = provisioner.sections("eabKeys", |section| {
        let key = key(section, upstreams, mode)?;
        match kids.insert(key.kid.clone()) {
            true => Ok(key),
            false => {
                let place = section.place("kid");
                Err(place.error(format_args!("\"{}\" is taken already; write another id", key.kid)))
            }
        }
    });
    let (required, keys) = (required?.unwrap_or(false), keys?);
    if !required && !keys.is_empty() {
        provisioner.place("eabKeys").warn(
            "clients may register without any of these keys, for requireEAB is not true; write \"requireEAB\": true",
        );
    }
    Ok(ExternalAccounts { required, keys })
}

fn key(
    section: &Section<'_>,
    upstreams: Option<&[UpstreamName]>,
    mode: u32,
) -> Result<ConfiguredKey, Reported> {
    const FIX: &str =
        "write 32 random bytes as base64url (openssl rand -base64 32), or \"file:PATH\" or \"env:NAME\"";
    let kid = section.required("kid", "write e.g. \"team-web\"");
    let kid = kid.and_then(|text| text.parsed());
    let mac_key = section.required("hmacKey", FIX).and_then(|text| {
        if stands_here(&text) {
            text.place.keeps_secret(None);
        }
        if stands_here(&text) && mode & OTHERS != 0 {
            text.place.warn(format_args!(
                "this file holds secrets, and every user of this host may read or change it (mode {:03o}); run chmod 640",
                mode & 0o777
            ));
        }
        let Some(bytes) = base64url(resolved(&text)?.reveal()) else {
            return Err(text
                .place
                .error(format_args!("[redacted] is not base64url; {FIX}")));
        };
        if (16..32).contains(&bytes.len()) {
            text.place.warn(format_args!(
                "is only {} bytes long, where RFC 7518 asks for 32",
                bytes.len()
            ));
        }
        bytes
            .try_into()
            .map_err(|error| text.place.error(format_args!("[redacted] {error}; {FIX}")))
    });
    let reusable = section.flag("reusable");
    let rules = section.section("policy", rules);
    let upstream = chosen_upstream(section, upstreams);
    Ok(ConfiguredKey {
        kid: kid?,
        mac_key: mac_key?,
        one_time: !reusable?.unwrap_or(true),
        rules: rules?,
        upstream: upstream?,
    })
}
