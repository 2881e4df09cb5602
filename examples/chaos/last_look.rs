//! The last look: when everything is quiet, each client asks for everything that it was ever acknowledged.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::client::{Account, Client, Object, Outcome, Setback, Signer};
use crate::history::{Said, Status};

/// How often a replica that works is asked until it answers.
const ATTEMPTS: usize = 30;

impl Client {
    /// Looks at all of its accounts and orders. What is not answered is not noted, which the checker calls lost.
    pub(crate) async fn look_at_everything(&mut self) {
        for account in std::mem::take(&mut self.accounts) {
            self.look_at_account(&account).await;
            for order in account.all_orders() {
                self.look_at(&account, &order).await;
            }
        }
    }

    /// The key still belongs to the account (RFC 8555 §7.3.1).
    async fn look_at_account(&mut self, account: &Account) {
        let url = format!("{}/acme/acme/new-account", self.world.base);
        let payload = json!({ "onlyReturnExisting": true }).to_string();
        for _ in 0..ATTEMPTS {
            let signer = Signer {
                key: &account.key,
                url: None,
            };
            match self.post(signer, &url, &payload).await {
                Ok((replica, reply)) => {
                    let found = reply.header("location");
                    let object: Option<Object> = serde_json::from_slice(&reply.body).ok();
                    let said = match (found.as_deref() == Some(&account.url), object) {
                        (true, Some(object)) => Said::Account(object.status),
                        _ => Said::Denied(format!("its key belongs to {found:?}")),
                    };
                    return self.world.history.note(&account.url, replica, said);
                }
                Err(setback) => self.note(&account.url, setback).await,
            }
        }
    }

    async fn look_at(&mut self, account: &Account, url: &str) {
        for _ in 0..ATTEMPTS {
            match self.look_through(Signer::of(account), url).await {
                Ok(()) => return,
                Err(setback) => self.note(url, setback).await,
            }
        }
    }

    /// The order, its authorizations with their challenges, and its certificate.
    async fn look_through(&mut self, signer: Signer<'_>, url: &str) -> Outcome<()> {
        let order = self.look_at_order(signer, url).await?;
        for url in &order.authorizations {
            self.look_at_authorization(signer, url).await?;
        }
        match order.status {
            Status::Valid => self.fetch(signer, url, &order).await,
            _ => Ok(()),
        }
    }

    async fn note(&self, about: &str, setback: Setback) {
        if let Setback::Refused(replica, why) = setback {
            self.world.history.note(about, replica, Said::Denied(why));
        }
        sleep(Duration::from_millis(200)).await;
    }
}
