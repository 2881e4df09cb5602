//! The URLs that we hand out and take back (RFC 8555 §7.1). They are built from the configured names; a request's Host
//! only selects among those, and is never reflected (CONFORMANCE A1).

use crate::acme::id::{AccountName, AuthorizationId, ChallengeId, OrderId};
use crate::acme::identifier::DnsName;
use crate::server::Settings;

/// The URLs of one provisioner under one of the configured names.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    authority: String,
    provisioner: String,
}

impl Links {
    /// The URLs for a request to this host, if it is one of ours.
    pub(crate) fn for_host(settings: &Settings, host: Option<&str>, provisioner: &str) -> Option<Self> {
        let host = host?;
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let known = settings
            .names
            .iter()
            .find(|known| known.as_str().eq_ignore_ascii_case(name))?;
        Some(Self::new(settings, known, provisioner))
    }

    fn new(settings: &Settings, name: &DnsName, provisioner: &str) -> Self {
        let authority = match settings.port_in_links {
            None => name.to_string(),
            Some(port) => format!("{name}:{port}"),
        };
        Self {
            authority,
            provisioner: provisioner.to_owned(),
        }
    }

    pub(crate) fn provisioner(&self) -> &str {
        &self.provisioner
    }

    /// The URL of a path below the provisioner's.
    pub(crate) fn to(&self, path: &str) -> String {
        format!("https://{}/acme/{}/{path}", self.authority, self.provisioner)
    }

    /// The URL that a request with this path and query was sent to.
    pub(crate) fn of_request(&self, path_and_query: &str) -> String {
        format!("https://{}{path_and_query}", self.authority)
    }

    pub(crate) fn directory(&self) -> String {
        self.to("directory")
    }

    pub(crate) fn account(&self, name: &AccountName) -> String {
        self.to(&format!("account/{name}"))
    }

    pub(crate) fn orders(&self, account: &AccountName) -> String {
        self.to(&format!("account/{account}/orders"))
    }

    pub(crate) fn order(&self, id: OrderId) -> String {
        self.to(&format!("order/{id}"))
    }

    pub(crate) fn finalize(&self, id: OrderId) -> String {
        self.to(&format!("order/{id}/finalize"))
    }

    pub(crate) fn certificate(&self, id: OrderId) -> String {
        self.to(&format!("certificate/{id}"))
    }

    /// A chain of the order's certificate: number 0 is the first one.
    pub(crate) fn chain(&self, id: OrderId, number: usize) -> String {
        match number {
            0 => self.certificate(id),
            number => self.to(&format!("certificate/{id}/{number}")),
        }
    }

    pub(crate) fn authorization(&self, id: AuthorizationId) -> String {
        self.to(&format!("authz/{id}"))
    }

    pub(crate) fn challenge(&self, id: ChallengeId) -> String {
        self.to(&format!("challenge/{id}"))
    }
}

/// The account that a `kid` names: the account URL under any of the configured names, below `/acme` or `/2.0/acme`,
/// compared as a whole (CONFORMANCE D18).
pub(crate) fn account_of_kid(settings: &Settings, provisioner: &str, kid: &str) -> Option<AccountName> {
    let account: AccountName = kid.rsplit('/').next()?.parse().ok()?;
    let ours = |name| {
        let links = Links::new(settings, name, provisioner);
        let below_2_0 = links.of_request(&format!("/2.0/acme/{provisioner}/account/{account}"));
        kid == links.account(&account) || kid == below_2_0
    };
    settings.names.iter().any(ours).then_some(account)
}

/// Whether this is what the URLs of the provisioner's accounts begin with, under one of the configured names.
pub(crate) fn begins_account_urls(settings: &Settings, provisioner: &str, prefix: &str) -> bool {
    let ours = |name| {
        let links = Links::new(settings, name, provisioner);
        links.to("account/") == prefix
            || links.of_request(&format!("/2.0/acme/{provisioner}/account/")) == prefix
    };
    settings.names.iter().any(ours)
}
