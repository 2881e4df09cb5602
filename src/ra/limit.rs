//! How many unfinished orders an account may have (SECURITY C417): bounds what one account can make the store hold.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use crate::acme::id::{AccountId, OrderId};

/// The most orders of one account that are neither finalized nor ended.
pub(crate) const MAX_PENDING: usize = 300;

/// The orders that each account has opened since the start and not finalized. In memory, so that counting costs no
/// read: after a restart, and on each replica, an account starts anew.
#[derive(Debug, Default)]
pub(crate) struct PendingOrders {
    accounts: Mutex<HashMap<AccountId, VecDeque<(OrderId, Timestamp)>>>,
}

impl PendingOrders {
    /// The pending orders of an account that has reached the limit; `None` if it may open another one.
    pub(crate) fn at_limit(&self, account: AccountId, now: Timestamp) -> Option<Vec<OrderId>> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let orders = accounts.get_mut(&account)?;
        orders.retain(|(_, expires)| *expires > now);
        (orders.len() >= MAX_PENDING).then(|| orders.iter().map(|(id, _)| *id).collect())
    }

    pub(crate) fn opened(&self, account: AccountId, order: OrderId, expires: Timestamp) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.entry(account).or_default().push_back((order, expires));
    }

    /// The order is finalized or has ended.
    pub(crate) fn closed(&self, account: AccountId, order: OrderId) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(orders) = accounts.get_mut(&account) {
            orders.retain(|(id, _)| *id != order);
            if orders.is_empty() {
                accounts.remove(&account);
            }
        }
    }
}
