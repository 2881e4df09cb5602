//! The operator's import of accounts, page by page.

use crate::acme::account::Account;
use crate::ra::RegistrationAuthority;
use crate::ra::external_account::KeyError;
use crate::ra::import::Imported;

/// Takes over as many accounts as it can, and gives as JSON what came of each, for the sum over all pages.
pub(crate) async fn accounts(
    ra: &RegistrationAuthority,
    accounts: &[Account],
    dry_run: bool,
) -> Result<String, KeyError> {
    let mut outcomes: Vec<Imported> = Vec::new();
    for account in accounts {
        match ra.import_account(account, dry_run).await {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) if outcomes.is_empty() => return Err(KeyError::Store(error)),
            // What was done is said; whoever asks for the rest hears what is wrong.
            Err(_) => break,
        }
    }
    serde_json::to_string(&outcomes).map_err(|error| KeyError::Refused(error.to_string()))
}
