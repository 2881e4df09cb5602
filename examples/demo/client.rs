//! The demo's client: instant-acme, which does what certbot does (RFC 8555 §7.4): order, prove, finalize, fetch.

use std::time::Duration;

use anyhow::{Context, ensure};
use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData};

use crate::http01::Http01;
use crate::instant::InstantHttp;
use crate::proxy::AcmeProxy;
use crate::say;

/// What the client has in the end.
pub(crate) struct Obtained {
    /// Leaf and intermediates, PEM.
    pub(crate) chain: String,
    /// The client's public key, as a DER `SubjectPublicKeyInfo`.
    pub(crate) public_key: Vec<u8>,
}

/// Has a certificate issued for the names, with a key that never leaves here.
pub(crate) async fn obtain(proxy: &AcmeProxy, web: &Http01, names: &[&str]) -> anyhow::Result<Obtained> {
    let patience = RetryPolicy::new().timeout(Duration::from_secs(90));
    let newcomer = NewAccount {
        contact: &[],
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let (account, _) = Account::builder_with_http(Box::new(InstantHttp(proxy.client())))
        .create(&newcomer, proxy.directory_url(), None)
        .await
        .context("acme-proxy gave the client no account")?;
    say("   It has made an account at acme-proxy, which needs no EAB: it is inside the organisation.");

    let identifiers: Vec<Identifier> = names
        .iter()
        .map(|name| Identifier::Dns((*name).to_owned()))
        .collect();
    let order = account.new_order(&NewOrder::new(&identifiers)).await;
    let mut order = order.context("acme-proxy did not accept the order")?;
    say(format_args!(
        "   It has ordered a certificate for {}.",
        names.join(" and ")
    ));

    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        let challenge = authorization.challenge(ChallengeType::Http01);
        let mut challenge = challenge.context("acme-proxy offers no http-01 challenge")?;
        web.publish(&challenge.token, challenge.key_authorization().as_str());
        challenge
            .set_ready()
            .await
            .context("acme-proxy did not take up the challenge")?;
        say(format_args!(
            "   It has put the answer to acme-proxy's challenge on http://{}/, and said so.",
            challenge.identifier()
        ));
    }
    let status = order
        .poll_ready(&patience)
        .await
        .context("acme-proxy did not validate the names")?;
    ensure!(
        status == OrderStatus::Ready,
        "acme-proxy found the names not proved"
    );
    say("   acme-proxy has looked, and found both names proved.");

    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate()?;
    let mut csr = CertificateParams::new(names)?;
    csr.distinguished_name = DistinguishedName::new();
    order
        .finalize_csr(csr.serialize_request(&key)?.der())
        .await
        .context("acme-proxy did not accept the CSR")?;
    say("   It has sent its certificate request. acme-proxy has it signed by the CA.");
    let chain = order
        .poll_certificate(&patience)
        .await
        .context("no certificate came")?;
    say("   It has fetched the certificate.");
    Ok(Obtained {
        chain,
        public_key: key.subject_public_key_info(),
    })
}
