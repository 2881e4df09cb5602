//! How much one account, one address or one name may ask for. Each limit is off at 0.

/// As many as the public CAs take in one order.
pub const MAX_NAMES_PER_ORDER: usize = 100;

/// The limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// New accounts of one address within an hour. Every host behind one NAT may be told to register at once.
    pub accounts_per_address_per_hour: u32,
    /// New orders of one account within an hour; renewals do not count. One cert-manager orders for a whole cluster.
    pub orders_per_account_per_hour: u32,
    /// Orders of one account that are neither finalized nor ended. cert-manager opens all of its orders at once.
    pub pending_orders_per_account: u32,
    /// Failed validations of one name by one account within an hour: twice what Let's Encrypt allows.
    pub failed_validations_per_name_per_hour: u32,
    /// Names in one order, at most [`MAX_NAMES_PER_ORDER`].
    pub names_per_order: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            accounts_per_address_per_hour: 1000,
            orders_per_account_per_hour: 3000,
            pending_orders_per_account: 3000,
            failed_validations_per_name_per_hour: 10,
            names_per_order: MAX_NAMES_PER_ORDER,
        }
    }
}
