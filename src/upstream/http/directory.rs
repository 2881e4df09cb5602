//! The CA's directory (RFC 8555 §7.1.1): the members that we look at ourselves.

use std::collections::BTreeMap;

use http::Method;
use jiff::Timestamp;
use serde::Deserialize;

use crate::acme::offers::Offers;
use crate::upstream::fault::Fault;
use crate::upstream::http::Client;

/// What the directory says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Directory {
    /// `newNonce`.
    pub new_nonce: String,
    /// `newAccount`.
    pub new_account: String,
    /// `newOrder`.
    pub new_order: String,
    revoke_cert: Option<String>,
    /// `keyChange`.
    pub key_change: Option<String>,
    /// `renewalInfo` (RFC 9773 §3).
    pub renewal_info: Option<String>,
    #[serde(default)]
    meta: Meta,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    terms_of_service: Option<String>,
    #[serde(default)]
    external_account_required: bool,
    #[serde(default)]
    profiles: BTreeMap<String, String>,
}

impl Directory {
    /// Whether the CA says that it wants an External Account Binding. Some that want one do not say so.
    pub fn external_account_required(&self) -> bool {
        self.meta.external_account_required
    }

    /// Where the terms are to be read that a registration agrees to.
    pub fn terms_of_service(&self) -> Option<&str> {
        self.meta.terms_of_service.as_deref()
    }

    /// What the CA offers beyond RFC 8555.
    pub fn offers(&self) -> Offers {
        Offers::of_directory(&self.meta.profiles, self.renewal_info.is_some())
    }
}

impl Client {
    /// Fetches the CA's directory and checks that every URL in it is the CA's own.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub async fn directory(&self) -> Result<Directory, Fault> {
        Ok(self.dated_directory().await?.0)
    }

    /// The same, and when the CA says that it answered.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub async fn dated_directory(&self) -> Result<(Directory, Option<Timestamp>), Fault> {
        let answer = self.send(Method::GET, &self.0.directory, None).await?;
        let directory: Directory = serde_json::from_slice(&answer.body)
            .map_err(|e| Fault::Nonsense(format!("its directory: {e}")))?;
        self.permitted(&directory.new_nonce)?;
        self.permitted(&directory.new_account)?;
        self.permitted(&directory.new_order)?;
        for url in [
            &directory.revoke_cert,
            &directory.key_change,
            &directory.renewal_info,
        ]
        .into_iter()
        .flatten()
        {
            self.permitted(url)?;
        }
        Ok((directory, answer.date))
    }
}
