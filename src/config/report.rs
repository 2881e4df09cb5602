//! The text of `acme-proxy check ca.json`: what the daemon would do with this file.

use std::fmt;
use std::fmt::Write as _;

use crate::config::Config;
use crate::config::LogFormat;
use crate::config::Upstream;
use crate::policy::ExternalAccounts;
use crate::server::OwnCertificate;

impl Config {
    /// What would happen, in plain sentences, without a secret in it. Nothing is contacted for it.
    pub fn report(&self) -> String {
        let mut report = String::new();
        // Writing to a string does not fail.
        let _ = self.write_report(&mut report);
        report
    }

    fn write_report(&self, out: &mut String) -> fmt::Result {
        let server = &self.server;
        let versions = match (server.tls.tls12, server.tls.tls13) {
            (true, true) => "1.2 and 1.3",
            (true, false) => "1.2",
            (false, _) => "1.3",
        };
        writeln!(out, "It listens on {} (HTTPS, TLS {versions}).", server.address)?;
        writeln!(out, "Clients use:")?;
        let port = server
            .port_in_links
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        for provisioner in &self.policy.provisioners {
            for name in &server.names {
                writeln!(out, "  https://{name}{port}/acme/{}/directory", provisioner.name)?;
            }
            writeln!(out, "    challenges: {}", listed(&provisioner.challenges))?;
            writeln!(out, "    admitted: {}", self.policy.rules)?;
            if !provisioner.rules.is_empty() {
                writeln!(out, "    and of those: {}", provisioner.rules)?;
            }
            if let Some(upstream) = provisioner.upstream {
                writeln!(out, "    upstream: {upstream}")?;
            }
            write_external_accounts(out, &provisioner.external_accounts)?;
        }
        for upstream in &self.upstreams {
            self.write_upstream(out, upstream)?;
        }
        match &server.own_certificate {
            OwnCertificate::FromUpstream { names, .. } => {
                writeln!(
                    out,
                    "Its own certificate, for {}, is issued at start by {}.",
                    listed(names),
                    self.own_ca()
                )?;
            }
            OwnCertificate::Files { certificate, .. } => {
                writeln!(out, "Its own certificate is read from {}.", certificate.display())?;
            }
        }
        match &self.database {
            Some(database) => writeln!(
                out,
                "Accounts and orders are kept in the PostgreSQL database {}, for every replica with the same secret.",
                database.connection.place()
            )?,
            None => writeln!(
                out,
                "Accounts and orders are kept in {}.",
                self.store.path.display()
            )?,
        }
        self.write_validation(out)?;
        let minutes = self.policy.issuance_deadline.as_secs() / 60;
        let (hours, minutes) = (minutes / 60, minutes % 60);
        writeln!(
            out,
            "An order that the CA has not finished after {hours} h {minutes} min fails."
        )?;
        match self.metrics {
            Some(address) => writeln!(out, "Metrics are served on http://{address}/metrics.")?,
            None => writeln!(out, "Metrics are not served.")?,
        }
        match self.logger.format {
            LogFormat::Off => writeln!(out, "Requests are not logged.")?,
            LogFormat::Text => writeln!(out, "Requests are logged as text.")?,
            LogFormat::Json => writeln!(out, "Requests are logged as JSON.")?,
            LogFormat::Common => writeln!(out, "Requests are logged in the common format.")?,
        }
        for warning in &self.warnings {
            writeln!(out, "warning: {warning}")?;
        }
        writeln!(
            out,
            "The CA was not contacted, and no External Account Binding was used."
        )
    }

    fn write_upstream(&self, out: &mut String, configured: &Upstream) -> fmt::Result {
        let upstream = &configured.settings;
        let name = configured.name;
        let claims = self.policy.routes.domains_of(name);
        match (name.is_default(), claims.is_empty()) {
            (true, _) => writeln!(out, "Certificates are issued by {}.", upstream.directory)?,
            (false, false) => writeln!(
                out,
                "Those for {} and all below are issued by {}, upstream {name}.",
                listed(claims),
                upstream.directory
            )?,
            (false, true) => writeln!(
                out,
                "Those of whoever is sent to upstream {name} are issued by {}.",
                upstream.directory
            )?,
        }
        if let Some(failover) = configured.failover {
            writeln!(
                out,
                "  When it has failed for {:?}, new ones are issued by upstream {}.",
                failover.after, failover.to
            )?;
        }
        if let Some(roots) = &upstream.roots {
            writeln!(
                out,
                "  The roots in {} are trusted for it as well.",
                roots.display()
            )?;
        }
        match &upstream.email {
            Some(email) => writeln!(out, "  Account: {email}.")?,
            None => writeln!(out, "  Account: without an e-mail address.")?,
        }
        match &upstream.eab {
            Some(eab) => writeln!(
                out,
                "  External Account Binding: key id {}, key {}.",
                eab.kid, eab.hmac_key
            )?,
            None => writeln!(out, "  External Account Binding: none.")?,
        }
        if let Some(dns01) = &upstream.dns01 {
            writeln!(
                out,
                "  Its dns-01 challenges are solved by the DNS provider {}.",
                dns01.name
            )?;
        }
        Ok(())
    }

    /// Who issues the daemon's own certificate.
    fn own_ca(&self) -> String {
        match self.worker.own_certificate_upstream {
            upstream if upstream.is_default() => "the CA".to_owned(),
            upstream => format!("upstream {upstream}"),
        }
    }

    fn write_validation(&self, out: &mut String) -> fmt::Result {
        let validate = &self.validate;
        let resolvers = match validate.resolvers.is_empty() {
            true => "the system's DNS servers".to_owned(),
            false => listed(&validate.resolvers),
        };
        writeln!(
            out,
            "Challenges are looked up through {resolvers}, http-01 on port {}.",
            validate.http_port
        )?;
        writeln!(
            out,
            "  Refused: loopback, link-local, multicast and unspecified addresses, and its own listeners."
        )?;
        if !validate.allow.is_empty() {
            writeln!(out, "  Allowed all the same: {}.", listed(&validate.allow))?;
        }
        if !validate.deny.is_empty() {
            writeln!(out, "  Refused as well: {}.", listed(&validate.deny))?;
        }
        Ok(())
    }
}

fn write_external_accounts(out: &mut String, rules: &ExternalAccounts) -> fmt::Result {
    if rules.required {
        writeln!(
            out,
            "    registration: only with an external account key, from here or from acme-proxy eab"
        )?;
    }
    for key in &rules.keys {
        let accounts = if key.one_time {
            "one account"
        } else {
            "any number of accounts"
        };
        writeln!(
            out,
            "    key {}: for {accounts}, admitted: {}",
            key.kid, key.rules
        )?;
        if let Some(upstream) = key.upstream {
            writeln!(out, "      upstream: {upstream}")?;
        }
    }
    Ok(())
}

fn listed<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    texts.join(", ")
}
