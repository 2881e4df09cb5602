//! `address`, `dnsNames`, `commonName`, `tls`, `root`, `logger`, `proxy_protocol` and `shutdown_delay`: where, as whom, to whom and
//! until when we answer.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::LogFormat;
use crate::config::Logger;
use crate::config::absolute;
use crate::config::reader::Reported;
use crate::config::reader::Section;
use crate::config::reader::Text;
use crate::config::reader::all;
use crate::config::value::GoDuration;
use crate::config::value::ListenAddress;
use crate::policy::network::Network;
use crate::server::OwnCertificate;
use crate::server::PeerLimits;
use crate::server::Root;
use crate::server::Roots;
use crate::server::Settings;
use crate::server::TlsVersions;

/// X.520's upper bound for a common name.
const MAX_COMMON_NAME: usize = 64;

/// What step-ca writes into files that it saves.
const STEP_CA_COMMON_NAME: &str = "Step Online CA";

/// With the 35 seconds for requests and jobs it is less than `TimeoutStopSec=` of the unit.
const MAX_SHUTDOWN_DELAY: Duration = Duration::from_secs(60);

/// The settings without the provisioners, which stand elsewhere in the file.
pub(crate) fn read(root: &Section<'_>, trace_header: String) -> Result<Settings, Reported> {
    let address = root.required("address", "write e.g. \":443\"");
    let address = address.and_then(|text| text.parsed());
    let tls = root.section("tls", |tls| {
        let versions = versions(tls);
        let files = files(tls);
        tls.ignore(
            "cipherSuites",
            "the TLS library's own suites are used, all of them strong",
        );
        if tls.flag("renegotiation")? == Some(true) {
            tls.place("renegotiation")
                .warn("has no effect here: renegotiation is always off");
        }
        Ok((versions?, files?))
    });
    let from_files = matches!(tls, Ok((_, Some(_))));
    let names = names(root, |text| Settings::name(text, from_files));
    let common_name = common_name(root);
    let roots = roots(root);
    let (ListenAddress(address), names, (tls, files), common_name) = (address?, names?, tls?, common_name?);
    let own_certificate = match (files, common_name) {
        (Some((certificate, key)), common_name) => {
            if common_name.is_some() {
                root.place("commonName")
                    .warn("has no effect here: the certificate comes from tls.certificate");
            }
            OwnCertificate::Files { certificate, key }
        }
        // The Go program sends the common name to the CA as one of the names.
        (None, Some((name, text))) => OwnCertificate::FromUpstream {
            common_name: Some(text),
            names: match names.contains(&name) {
                true => names.clone(),
                false => names.iter().cloned().chain([name]).collect(),
            },
        },
        (None, None) => OwnCertificate::FromUpstream {
            common_name: names
                .first()
                .map(ToString::to_string)
                .filter(|name| name.len() <= MAX_COMMON_NAME),
            names: names.clone(),
        },
    };
    Ok(Settings {
        address,
        names,
        port_in_links: (address.port() != 443).then_some(address.port()),
        own_certificate,
        tls,
        provisioners: Vec::new(),
        roots: roots?,
        cors: false,
        trace_header,
        limits: PeerLimits::default(),
        balancers: Vec::new(),
    })
}

/// `authority.config.shutdown_delay`: how long the daemon serves on after it has been told to stop.
pub(crate) fn shutdown_delay(config: &Section<'_>) -> Result<Duration, Reported> {
    match config.parsed::<GoDuration>("shutdown_delay")? {
        Some(GoDuration(delay)) if delay > MAX_SHUTDOWN_DELAY => {
            let place = config.place("shutdown_delay");
            Err(place.error("is longer than the service's manager waits for its end; write \"1m\" at most"))
        }
        Some(GoDuration(delay)) => Ok(delay),
        None => Ok(Duration::ZERO),
    }
}

/// `authority.config.proxy_protocol`: the load balancers whose PROXY header is believed.
pub(crate) fn balancers(section: &Section<'_>) -> Result<Vec<IpNet>, Reported> {
    all(section.texts("from")?.iter().map(|text| {
        let Network(network) = text.parsed()?;
        match network.prefix_len() {
            0 => Err(text.wrong(
                "would let every client say what its address is; write the addresses of your load balancers",
            )),
            _ => Ok(network),
        }
    }))
}

fn names<T: PartialEq, E: Display>(
    root: &Section<'_>,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>, Reported> {
    const FIX: &str = "write the names that clients use, e.g. [\"acmeproxy.example.com\"]";
    let is_a_host = |text: &str| Settings::name(text, true).is_ok();
    let mut names = Vec::new();
    let mut internal = Vec::new();
    let mut wrong = Ok(());
    for text in root.texts("dnsNames")? {
        if text.value.parse::<IpAddr>().is_ok() {
            text.place.warn(format_args!(
                "{:?} is skipped: it would not be in the certificate; clients must use a name",
                text.value
            ));
            continue;
        }
        match parse(text.value) {
            Ok(name) if names.contains(&name) => {}
            Ok(name) => names.push(name),
            // step-ca's own files have localhost and the like beside the public name.
            Err(_) if !text.value.contains('.') && is_a_host(text.value) => internal.push(text),
            Err(error) => wrong = Err(text.wrong(format_args!("can not be certified: {error}; {FIX}"))),
        }
    }
    for text in internal {
        match names.is_empty() {
            true => {
                wrong = Err(text.wrong(format_args!("can not be certified: it has a single label; {FIX}")))
            }
            false => text.place.warn(format_args!(
                "{:?} is skipped: no public CA certifies it; clients must use another of these names",
                text.value
            )),
        }
    }
    wrong?;
    match names.is_empty() {
        true => Err(root.place("dnsNames").error(format_args!("has no name; {FIX}"))),
        false => Ok(names),
    }
}

/// The common name, as a name and as text.
fn common_name<T: FromStr<Err: Display> + Display>(
    root: &Section<'_>,
) -> Result<Option<(T, String)>, Reported> {
    const FIX: &str = "write the first of dnsNames, or remove it";
    let Some(text) = root.text("commonName")? else {
        return Ok(None);
    };
    if text.value == STEP_CA_COMMON_NAME {
        text.place.warn(format_args!(
            "{STEP_CA_COMMON_NAME:?} has no effect here: it is step-ca's default, and no name; the first of dnsNames is used"
        ));
        return Ok(None);
    }
    if text.value.len() > MAX_COMMON_NAME {
        return Err(text.wrong(format_args!("is longer than {MAX_COMMON_NAME} characters; {FIX}")));
    }
    match text.value.parse::<T>() {
        Ok(name) => {
            let normal = name.to_string();
            Ok(Some((name, normal)))
        }
        Err(error) => Err(text.wrong(format_args!("can not be certified: {error}; {FIX}"))),
    }
}

/// `root` and `federatedRoots`: what clients of step-ca fetch from `/roots` and `/federation`.
fn roots(root: &Section<'_>) -> Result<Roots, Reported> {
    let certificates = |paths: Vec<Text<'_>>| {
        let paths = paths.iter().filter(|text| !text.value.is_empty());
        all(paths.map(|text| {
            let pem = readable(text)?.1;
            Root::all_of(&pem)
                .map_err(|error| text.wrong(format_args!("{error}; write the path of a PEM file")))
        }))
    };
    let own = root.texts_or_one("root").and_then(certificates);
    let federated = root.texts("federatedRoots").and_then(certificates);
    Ok(Roots {
        own: own?.concat(),
        federated: federated?.concat(),
    })
}

/// The versions are JSON numbers. What is below 1.2 is not served at all (RFC 8996).
fn versions(tls: &Section<'_>) -> Result<TlsVersions, Reported> {
    let version = |key, default| -> Result<f64, Reported> {
        const WHAT: &str = "1.2 or 1.3, as a number without quotes";
        // Go leaves 0 in a version that is not configured.
        let written = tls
            .number::<f64>(key, WHAT)?
            .filter(|(version, _)| *version != 0.0);
        let Some((version, place)) = written else {
            return Ok(default);
        };
        let known = [1.0, 1.1, 1.2, 1.3]
            .into_iter()
            .find(|known: &f64| (known - version).abs() < 1e-9);
        let known =
            known.ok_or_else(|| place.error(format_args!("{version} is no TLS version; write {WHAT}")))?;
        if known < 1.2 {
            place.warn(format_args!(
                "TLS {version} is not served: it is broken; 1.2 is used instead; write 1.2"
            ));
        }
        Ok(known)
    };
    let (min, max) = (version("minVersion", 1.2), version("maxVersion", 1.3));
    let (min, max) = (min?, max?);
    if min > max {
        let place = tls.place("minVersion");
        return Err(place.error(format_args!(
            "{min} is above maxVersion, {max}; write 1.2 and 1.3"
        )));
    }
    Ok(TlsVersions {
        tls12: min <= 1.2,
        tls13: max > 1.2,
    })
}

/// The certificate's and the key's file, if the operator keeps them.
fn files(tls: &Section<'_>) -> Result<Option<(PathBuf, PathBuf)>, Reported> {
    let (certificate, key) = (tls.text("certificate"), tls.text("key"));
    match (certificate?, key?) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => {
            let certificate = pem_file(&certificate, "CERTIFICATE");
            let key = pem_file(&key, "PRIVATE KEY");
            Ok(Some((certificate?, key?)))
        }
        (Some(_), None) => Err(tls
            .place("key")
            .error("is missing; write the file of the certificate's key, too")),
        (None, Some(_)) => Err(tls
            .place("certificate")
            .error("is missing; write the file of the certificate, too")),
    }
}

fn readable(text: &Text<'_>) -> Result<(PathBuf, Vec<u8>), Reported> {
    let path = absolute(text)?;
    match std::fs::read(&path) {
        Ok(content) => Ok((path, content)),
        Err(error) => Err(text.wrong(format_args!(
            "can not be read: {error}; write the path of a PEM file that this user may read"
        ))),
    }
}

/// A file that can be read and holds a PEM block with the label. What is inside is the business of those who use it.
pub(crate) fn pem_file(text: &Text<'_>, label: &str) -> Result<PathBuf, Reported> {
    let (path, content) = readable(text)?;
    let content = String::from_utf8_lossy(&content);
    let begins =
        |line: &str| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{label}-----"));
    match content.lines().any(begins) {
        true => Ok(path),
        false => Err(text.wrong(format_args!(
            "holds no PEM block \"{label}\"; write the path of a PEM file"
        ))),
    }
}

/// The request log. Without `logger`, requests are not logged.
pub(crate) fn logger(root: &Section<'_>) -> Result<Logger, Reported> {
    let wanted = root.has("logger");
    root.section("logger", |logger| {
        let format = logger.text("format").and_then(|text| match text {
            None if wanted => Ok(LogFormat::Text),
            None => Ok(LogFormat::Off),
            Some(text) => match text.value.to_ascii_lowercase().as_str() {
                "text" => Ok(LogFormat::Text),
                "json" => Ok(LogFormat::Json),
                "common" => Ok(LogFormat::Common),
                _ => {
                    Err(text.wrong("is no format of the request log; write \"json\", \"text\" or \"common\""))
                }
            },
        });
        let header = logger.text("traceHeader")?;
        let trace_header = match header {
            None => "X-Smallstep-Id".to_owned(),
            Some(text) => match http::HeaderName::from_str(text.value) {
                Ok(_) => text.value.to_owned(),
                Err(_) => return Err(text.wrong("is no name of an HTTP header; write e.g. \"X-Request-Id\"")),
            },
        };
        Ok(Logger {
            format: format?,
            trace_header,
        })
    })
}
