//! `dns01_txt.env_vars`, handed out by name: the names of lego, so that settings made for it go on working.
//!
//! Reading goes on after an error, so that one run shows them all. No message shows a value.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::Url;

use crate::acme::secret::Secret;

/// Proof that an error has been noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted;

/// Something to say about a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// Its name.
    pub variable: String,
    /// What is wrong, and what to write instead.
    pub text: String,
}

/// A user's name and password as HTTP's Basic authentication sends them (RFC 7617 §2).
pub(crate) fn basic(user: &str, password: &Secret) -> Secret {
    Secret::new(STANDARD.encode(format!("{user}:{}", password.reveal())))
}

/// The variables of one provider.
#[derive(Debug)]
pub struct Variables {
    /// What their names begin with; the first is what messages say of those that are not there.
    prefixes: &'static [&'static str],
    values: BTreeMap<String, Secret>,
    /// The names that were written, by what is behind the prefix.
    written: BTreeMap<String, String>,
    /// Values that must not be logged.
    pub(crate) secrets: Vec<Secret>,
    /// A PEM file of further roots to trust.
    pub(crate) roots: Option<PathBuf>,
    pub(crate) errors: Vec<Remark>,
    pub(crate) warnings: Vec<Remark>,
}

impl Variables {
    /// These values under these prefixes.
    pub fn new(prefixes: &'static [&'static str], values: BTreeMap<String, Secret>) -> Self {
        Self {
            prefixes,
            values,
            written: BTreeMap::new(),
            secrets: Vec::new(),
            roots: None,
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The name that a message calls the variable by.
    fn name(&self, suffix: &str) -> String {
        let default = format!("{}{suffix}", self.prefixes.first().unwrap_or(&""));
        let of_file = || {
            let written = self.written.get(suffix.strip_suffix("_FILE")?)?;
            Some(format!("{written}_FILE"))
        };
        self.written
            .get(suffix)
            .cloned()
            .or_else(of_file)
            .unwrap_or(default)
    }

    /// Takes a value out. An empty one counts as absent, as it does to lego.
    fn take(&mut self, suffix: &str) -> Option<Secret> {
        let mut found = None;
        for prefix in self.prefixes {
            let name = format!("{prefix}{suffix}");
            let value = self.values.remove(&name);
            let value = value.filter(|value| !value.reveal().is_empty());
            if found.is_none() && value.is_some() {
                self.written.insert(suffix.to_owned(), name);
                found = value;
            }
        }
        found
    }

    /// Notes an error.
    pub fn wrong(&mut self, suffix: &str, text: impl Into<String>) -> Noted {
        self.errors.push(Remark {
            variable: self.name(suffix),
            text: text.into(),
        });
        Noted
    }

    /// A value that may be shown.
    pub fn text(&mut self, suffix: &str) -> Option<String> {
        self.take(suffix).map(|value| value.reveal().clone())
    }

    /// A value that may not be shown.
    pub fn secret(&mut self, suffix: &str) -> Option<Secret> {
        let secret = self.take(suffix)?;
        self.secrets.push(secret.clone());
        Some(secret)
    }

    /// A value that must be there and may be shown; `what` completes "is missing; write".
    ///
    /// # Errors
    ///
    /// [`Noted`] if it is missing.
    pub fn required(&mut self, suffix: &str, what: &str) -> Result<String, Noted> {
        let missing = format!("is missing; write {what}");
        self.text(suffix).ok_or_else(|| self.wrong(suffix, missing))
    }

    /// A value that must be there and may not be shown.
    ///
    /// # Errors
    ///
    /// [`Noted`] if it is missing.
    pub fn required_secret(&mut self, suffix: &str, what: &str) -> Result<Secret, Noted> {
        let missing = format!("is missing; write {what}");
        self.secret(suffix).ok_or_else(|| self.wrong(suffix, missing))
    }

    /// A whole number.
    ///
    /// # Errors
    ///
    /// [`Noted`] if it is not in the range.
    pub fn number(
        &mut self,
        suffix: &str,
        default: u32,
        range: RangeInclusive<u32>,
        unit: &str,
    ) -> Result<u32, Noted> {
        let Some(text) = self.text(suffix) else {
            return Ok(default);
        };
        let number = text.parse().ok().filter(|number| range.contains(number));
        let (least, most) = (range.start(), range.end());
        number.ok_or_else(|| {
            self.wrong(
                suffix,
                format!("is no {unit} from {least} to {most}; write e.g. \"{default}\""),
            )
        })
    }

    /// Seconds. A day is far beyond what any zone takes.
    ///
    /// # Errors
    ///
    /// [`Noted`] if it is no such number.
    pub fn seconds(&mut self, suffix: &str, default: u32) -> Result<Duration, Noted> {
        let seconds = self.number(suffix, default, 1..=86_400, "number of seconds")?;
        Ok(Duration::from_secs(u64::from(seconds)))
    }

    /// The record's time to live.
    ///
    /// # Errors
    ///
    /// [`Noted`] if it is no such number.
    pub fn ttl(&mut self, default: u32, least: u32) -> Result<u32, Noted> {
        self.number("TTL", default, least..=86_400, "number of seconds")
    }

    /// `true` or `false`, in the spellings that Go reads.
    ///
    /// # Errors
    ///
    /// [`Noted`] if it is neither.
    pub fn flag(&mut self, suffix: &str, default: bool) -> Result<bool, Noted> {
        match self.text(suffix).as_deref() {
            None => Ok(default),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(_) => Err(self.wrong(suffix, "is neither \"true\" nor \"false\"")),
        }
    }

    /// An https URL without its final slash.
    ///
    /// # Errors
    ///
    /// [`Noted`] if it is none.
    pub fn https(&mut self, suffix: &str, default: &str) -> Result<String, Noted> {
        match self.text(suffix) {
            None => Ok(default.to_owned()),
            Some(text) => self.url(suffix, &text, &["https"]),
        }
    }

    /// An http or https URL without its final slash, which must be there. Credentials go to it: http is for servers of
    /// one's own, as lego allows it for them.
    ///
    /// # Errors
    ///
    /// [`Noted`] if it is none.
    pub fn endpoint(&mut self, suffix: &str) -> Result<String, Noted> {
        let text = self.required(suffix, "the server's URL, e.g. \"https://dns.example.com\"")?;
        self.url(suffix, &text, &["https", "http"])
    }

    pub(crate) fn url(&mut self, suffix: &str, text: &str, schemes: &[&str]) -> Result<String, Noted> {
        let usable = |url: &Url| {
            schemes.contains(&url.scheme())
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        };
        match Url::parse(text).is_ok_and(|url| usable(&url)) {
            true => Ok(text.trim_end_matches('/').to_owned()),
            false => {
                let schemes = schemes.join(" or ");
                Err(self.wrong(
                    suffix,
                    format!("is no {schemes} URL without user, query and fragment"),
                ))
            }
        }
    }

    /// Values that only lego needs: they are known, and do nothing.
    pub fn ignored(&mut self, suffixes: &[&str]) {
        for suffix in suffixes {
            if self.take(suffix).is_some() {
                self.warnings.push(Remark {
                    variable: self.name(suffix),
                    text: "has no effect here".to_owned(),
                });
            }
        }
    }

    /// Values that can not be honoured, and must not be overlooked.
    ///
    /// # Errors
    ///
    /// [`Noted`] if one is there.
    pub fn unavailable(&mut self, suffixes: &[&str], instead: &str) -> Result<(), Noted> {
        let mut outcome = Ok(());
        for suffix in suffixes {
            if self.take(suffix).is_some() {
                outcome = Err(self.wrong(suffix, format!("is not available in this version; {instead}")));
            }
        }
        outcome
    }

    /// All that has not been asked for. They are secrets until somebody says otherwise.
    pub fn rest(&mut self) -> BTreeMap<String, Secret> {
        let rest = std::mem::take(&mut self.values);
        self.secrets.extend(rest.values().cloned());
        rest
    }

    /// Warns of what nobody has asked for.
    pub(crate) fn finish(&mut self) {
        for variable in std::mem::take(&mut self.values).into_keys() {
            let text = "is no variable of this provider; it is ignored".to_owned();
            self.warnings.push(Remark { variable, text });
        }
    }
}
