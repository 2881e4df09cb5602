//! What is written for a record: its body, and the index entries that lead to it.

use crate::acme::account::Account;
use crate::acme::external_account::ExternalAccountKey;
use crate::acme::order::Order;
use crate::acme::renewal::CertificateId;
use crate::store::sled::committer::Put;
use crate::store::sled::keys;
use crate::store::sled::record::Index;
use crate::store::{StoreError, codec, line_of, names_of};

/// An account, which its key leads to, and so does its one-time external account key.
pub(crate) fn account_put(account: &Account, version: u64) -> Result<Put, StoreError> {
    let provisioner = account.provisioner();
    let entry = |key| Index {
        key,
        value: account.id().as_bytes().to_vec(),
    };
    let mut unique = vec![entry(keys::account_by_key(
        provisioner,
        &account.key().thumbprint(),
    ))];
    if let Some(binding) = account.binding().filter(|binding| binding.is_one_time()) {
        unique.push(entry(keys::one_time_key(provisioner, binding.kid())));
    }
    Ok(Put {
        key: keys::account(account.id()),
        version,
        body: codec::encode(account)?,
        indexes: Vec::new(),
        unique,
    })
}

/// An external account key.
pub(crate) fn external_key_put(key: &ExternalAccountKey, version: u64) -> Result<Put, StoreError> {
    Ok(Put {
        key: keys::external_key(key.provisioner(), key.kid()),
        version,
        body: codec::encode(key)?,
        indexes: Vec::new(),
        unique: Vec::new(),
    })
}

/// An order. Of those that replace a certificate and may still do so there is one, and so there is of those of one line that
/// are open at the CA.
pub(crate) fn order_put(order: &Order, version: u64) -> Result<Put, StoreError> {
    let id = order.id();
    let entry = |key| Index {
        key,
        value: Vec::new(),
    };
    let leading = |key| Index {
        key,
        value: id.as_bytes().to_vec(),
    };
    let mut indexes = vec![
        entry(keys::order_of_account(order.account(), id)),
        entry(keys::deletion(order.delete_after(), id)),
    ];
    let mut unique = Vec::new();
    if let Some(since) = order.in_line_since().filter(|_| !order.has_left_line()) {
        let (line, is_open) = (line_of(order), order.is_opened_upstream());
        indexes.push(entry(keys::in_line(line, is_open, since, id)));
        if is_open {
            unique.push(leading(keys::open(line)));
        }
    }
    if let Some(certificate) = order.certificate() {
        indexes.push(entry(keys::issued_for(order.account(), names_of(order), id)));
        indexes.push(leading(keys::certificate(certificate.leaf().fingerprint())));
        if let Some(named) = CertificateId::of(certificate.leaf()) {
            indexes.push(leading(keys::certificate_id(&named)));
        }
    }
    if let Some(since) = order.counts_since() {
        let names = order.identifiers();
        indexes.extend(names.map(|name| entry(keys::counted(name, since, id))));
    }
    if order.may_hand_over() {
        indexes.push(entry(keys::late(order.account(), line_of(order), id)));
    }
    if let (Some(late), None) = (order.bought(), order.certificate()) {
        indexes.push(leading(keys::late_certificate(late.leaf().fingerprint())));
    }
    if let Some(due) = order.renewal_due() {
        indexes.push(entry(keys::renewal(order.upstream_name(), due, id)));
    }
    unique.extend(order.holds_replaced().map(keys::replaced).map(leading));
    Ok(Put {
        key: keys::order(id),
        version,
        body: codec::encode(order)?,
        indexes,
        unique,
    })
}
