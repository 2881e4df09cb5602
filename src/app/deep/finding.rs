//! What a check has found, for people and for programs.

use std::fmt;

use serde::Serialize;

/// What was looked at. The names are part of the output for programs, and stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// What `ca.json` says without effect, or at a risk.
    Configuration,
    /// Who runs the check.
    User,
    /// Who may read and change `ca.json` and the files that it takes secrets from.
    SecretFile,
    /// The files of the own certificate.
    TlsFiles,
    /// The store's directory.
    Store,
    /// Room on the store's file system.
    Disk,
    /// A database of the Go program.
    GoDatabase,
    /// The database that replicas share.
    Database,
    /// A name that clients reach the daemon by.
    Name,
    /// A port that the daemon listens on.
    Port,
    /// A DNS server for challenge look-ups.
    Resolver,
    /// The proxy on the way to a CA.
    Proxy,
    /// A CA's directory.
    Ca,
    /// The clock, against a CA's.
    Clock,
    /// A CA's terms of service.
    Terms,
    /// The profile that is ordered.
    Profile,
    /// The External Account Binding.
    Eab,
    /// Our account at a CA.
    Account,
    /// The DNS provider for a CA's challenges.
    DnsProvider,
    /// The daemon's own certificate.
    OwnCertificate,
    /// The running daemon's own word.
    Daemon,
}

impl Check {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::Configuration,
        Self::User,
        Self::SecretFile,
        Self::TlsFiles,
        Self::Store,
        Self::Disk,
        Self::GoDatabase,
        Self::Database,
        Self::Name,
        Self::Port,
        Self::Resolver,
        Self::Proxy,
        Self::Ca,
        Self::Clock,
        Self::Terms,
        Self::Profile,
        Self::Eab,
        Self::Account,
        Self::DnsProvider,
        Self::OwnCertificate,
        Self::Daemon,
    ];

    /// Its name in the output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::User => "user",
            Self::SecretFile => "secret-file",
            Self::TlsFiles => "tls-files",
            Self::Store => "store",
            Self::Disk => "disk",
            Self::GoDatabase => "go-database",
            Self::Database => "database",
            Self::Name => "name",
            Self::Port => "port",
            Self::Resolver => "resolver",
            Self::Proxy => "proxy",
            Self::Ca => "ca",
            Self::Clock => "clock",
            Self::Terms => "terms",
            Self::Profile => "profile",
            Self::Eab => "eab",
            Self::Account => "account",
            Self::DnsProvider => "dns-provider",
            Self::OwnCertificate => "own-certificate",
            Self::Daemon => "daemon",
        }
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// The daemon works, and somebody should look at it.
    Warning,
    /// The daemon does not work, or is not safe.
    Failure,
}

/// One line of the diagnosis. Never a secret.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// Which one of several: a name, a file, an upstream.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(check: Check, subject: impl ToString, text: impl Into<String>) -> Self {
        Self {
            check,
            subject: subject.to_string(),
            level: Level::Ok,
            text: text.into(),
            fix: None,
        }
    }

    /// Somebody should look at it.
    pub fn warning(
        check: Check,
        subject: impl ToString,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Warning,
            fix: Some(fix.into()),
            ..Self::ok(check, subject, text)
        }
    }

    /// It does not work, or is not safe.
    pub fn failure(
        check: Check,
        subject: impl ToString,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Failure,
            fix: Some(fix.into()),
            ..Self::ok(check, subject, text)
        }
    }

    /// The finding as one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Failure => "failure",
        };
        write!(f, "{level:<7}  {}", self.check.name())?;
        if !self.subject.is_empty() {
            write!(f, " {}", self.subject)?;
        }
        write!(f, ": {}", self.text)?;
        match &self.fix {
            Some(fix) => write!(f, "\n         fix: {fix}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_names_for_programs_are_the_ones_for_people() {
        for check in Check::ALL {
            let finding = Finding::ok(check, "", "x");
            let json: serde_json::Value = serde_json::from_str(&finding.to_json()).unwrap();
            assert_eq!(json["check"], check.name());
        }
        let names: BTreeSet<&str> = Check::ALL.iter().map(|check| check.name()).collect();
        assert_eq!(names.len(), Check::ALL.len());
    }
}
