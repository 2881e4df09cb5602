//! Proves addresses to Pebble before acme-proxy needs them: acme-proxy itself proves names to a CA by dns-01, which
//! addresses can not be. The CAs of organisations take them as proved, by the account; so does Pebble after this.
//!
//! It is done under acme-proxy's own account, which is registered here by acme-proxy's own code, in its store.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use acme_proxy::config::{Config, Overrides};
use acme_proxy::store::sled::SledStore;
use acme_proxy::store::{Store, Versioned};
use acme_proxy::upstream::account::{self, Vault, vault_name};
use acme_proxy::upstream::http::Client;
use anyhow::{Context, ensure};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instant_acme::{Account, ChallengeType, Identifier, NewOrder, OrderStatus, RetryPolicy};
use serde_json::json;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::instant::InstantHttp;

/// The addresses of every machine's own.
const ADDRESSES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Proves them, for an acme-proxy that is to start with this configuration.
pub(crate) async fn addresses(ca_json: &Path, client: reqwest::Client) -> anyhow::Result<()> {
    let Config { upstreams, store, .. } = Config::load(ca_json, &Overrides::default())?;
    let default = upstreams.into_iter().next().context("there is no CA")?;
    let upstream = default.settings;
    let vault = StoredAccount {
        name: vault_name(default.name, &upstream),
        store: SledStore::open(store)?,
    };
    let registered = account::ensure(&Client::new(&upstream)?, &upstream, &vault).await?;
    let credentials = json!({
        "id": registered.url,
        "key_pkcs8": URL_SAFE_NO_PAD.encode(registered.key.pkcs8()),
        "directory": upstream.directory,
    });
    let builder = Account::builder_with_http(Box::new(InstantHttp(client)));
    let account = builder
        .from_credentials(serde_json::from_value(credentials)?)
        .await?;
    let mut order = account
        .new_order(&NewOrder::new(&ADDRESSES.map(Identifier::Ip)))
        .await?;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let challenge = authorization.challenge(ChallengeType::Http01);
        // Pebble is told to believe whatever it is told.
        challenge
            .context("Pebble offers http-01 for addresses")?
            .set_ready()
            .await?;
    }
    let status = order.poll_ready(&RetryPolicy::new()).await?;
    ensure!(
        status == OrderStatus::Ready,
        "Pebble does not take the addresses as proved"
    );
    Ok(())
}

/// The account where acme-proxy looks for it.
struct StoredAccount {
    name: String,
    store: SledStore,
}

#[async_trait]
impl Vault for StoredAccount {
    async fn load(&self) -> Result<Option<Vec<u8>>, String> {
        let stored = self.store.load(&self.name).await;
        Ok(stored
            .map_err(|error| error.to_string())?
            .map(|stored| stored.value))
    }

    async fn save(&self, bytes: Vec<u8>) -> Result<(), String> {
        let stored = self.store.load(&self.name).await;
        let version = stored
            .map_err(|error| error.to_string())?
            .map_or(0, |stored| stored.version);
        let saved = self.store.save(&self.name, Versioned::with(version, bytes)).await;
        saved.map(drop).map_err(|error| error.to_string())
    }

    async fn keep(&self, _: &str, _: Vec<u8>) -> Result<(), String> {
        Err("this program has one account only".to_owned())
    }

    async fn others(&self) -> Result<Vec<Vec<u8>>, String> {
        Ok(Vec::new())
    }

    async fn begin(&self) -> Result<OwnedMutexGuard<()>, String> {
        Ok(Arc::<Mutex<()>>::default().lock_owned().await)
    }

    async fn end(&self, _: OwnedMutexGuard<()>) {}
}
