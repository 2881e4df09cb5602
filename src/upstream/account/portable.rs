//! An account on its way from one place to another: our own file, and what certbot, lego and acme.sh keep.

use std::fmt;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use crate::upstream::account::key::Key;

/// An account, not yet held against what the CA says.
#[derive(Debug)]
pub struct Portable {
    pub(crate) directory: Option<String>,
    pub(crate) account: Option<String>,
    pub(crate) key: Key,
}

/// Our own file.
#[derive(Serialize, Deserialize)]
struct File {
    /// The CA's directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    directory: Option<String>,
    /// The account's URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    /// PEM.
    key: String,
}

/// As certbot and lego write what the CA has said; lego from version 5 on by the second name.
#[derive(Deserialize)]
struct Registration {
    #[serde(alias = "accountURL")]
    uri: Option<String>,
}

impl Portable {
    pub(crate) fn new(directory: &str, account: Option<String>, key: Key) -> Self {
        Self {
            directory: Some(directory.to_owned()),
            account,
            key,
        }
    }

    /// Reads our own file.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn from_ours(text: &str) -> Result<Self, String> {
        let file: File = serde_json::from_str(text).map_err(|_| {
            "it is no account as acme-proxy upstream export writes it: JSON with directory, account and key".to_owned()
        })?;
        Ok(Self {
            directory: file.directory,
            account: file.account,
            key: Key::from_pem(&file.key)?,
        })
    }

    /// Reads certbot's `private_key.json` and `regr.json`.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn from_certbot(private_key: &str, registration: &str) -> Result<Self, String> {
        let jwk: Value =
            serde_json::from_str(private_key).map_err(|_| "private_key.json is no JSON".to_owned())?;
        let registration: Registration = serde_json::from_str(registration)
            .map_err(|_| "regr.json is not as certbot writes it".to_owned())?;
        Ok(Self {
            directory: None,
            account: registration.uri,
            key: Key::from_private_jwk(&jwk)?,
        })
    }

    /// Reads lego's `account.json`, and the key that it keeps beside it.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn from_lego(account: &str, key: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Account {
            registration: Option<Registration>,
        }
        let account: Account =
            serde_json::from_str(account).map_err(|_| "account.json is not as lego writes it".to_owned())?;
        Ok(Self {
            directory: None,
            account: account.registration.and_then(|registration| registration.uri),
            key: Key::from_pem(key)?,
        })
    }

    /// Reads acme.sh's `ca.conf` and `account.key`.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn from_acme_sh(configuration: &str, key: &str) -> Result<Self, String> {
        let url = configuration
            .lines()
            .find_map(|line| line.strip_prefix("ACCOUNT_URL="));
        Ok(Self {
            directory: None,
            account: url.map(|url| url.trim().trim_matches(['\'', '"']).to_owned()),
            key: Key::from_pem(key)?,
        })
    }
}

/// Our own file, with the private key.
impl fmt::Display for Portable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = File {
            directory: self.directory.clone(),
            account: self.account.clone(),
            key: self.key.pem(),
        };
        let text = serde_json::to_string_pretty(&file).map_err(|_| fmt::Error)?;
        writeln!(f, "{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://ca.example/acct/1";

    #[test]
    fn an_account_reads_back_from_our_own_file() {
        let key = Key::generate().unwrap();
        let thumbprint = key.thumbprint();
        let text = Portable::new("https://ca.example/directory", Some(URL.to_owned()), key).to_string();
        let again = Portable::from_ours(&text).unwrap();
        assert_eq!(again.directory.as_deref(), Some("https://ca.example/directory"));
        assert_eq!(again.account.as_deref(), Some(URL));
        assert_eq!(again.key.thumbprint(), thumbprint);
        assert!(!format!("{again:?}").contains("PRIVATE"));
    }

    #[test]
    fn accounts_of_lego_and_acme_sh_are_read() {
        let (key, account_json) = (
            Key::generate().unwrap(),
            r#"{"email":"a@example.com","registration":{"body":{"status":"valid"},"uri":"https://ca.example/acct/1"}}"#,
        );
        let conf = "CA_KEY_HASH='x='\nACCOUNT_URL='https://ca.example/acct/1'\n";
        for read in [
            Portable::from_lego(account_json, &key.pem()),
            Portable::from_acme_sh(conf, &key.pem()),
        ] {
            let read = read.unwrap();
            assert_eq!((read.account.as_deref(), read.directory), (Some(URL), None));
            assert_eq!(read.key.thumbprint(), key.thumbprint());
        }
    }

    #[test]
    fn certbots_account_is_read_if_its_key_is_one_that_can_sign_here() {
        let regr = r#"{"body":{},"uri":"https://ca.example/acct/1"}"#;
        let ec = r#"{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
            "y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}"#;
        let read = Portable::from_certbot(ec, regr).unwrap();
        assert_eq!(read.account.as_deref(), Some(URL));
        let rsa = r#"{"kty":"RSA","n":"AQAB","e":"AQAB","d":"AQAB"}"#;
        let error = Portable::from_certbot(rsa, regr).unwrap_err();
        assert!(error.contains("P-256"), "{error}");
    }

    #[test]
    fn what_is_no_account_says_so() {
        for text in ["", "{}", "[]", r#"{"key":1}"#] {
            assert!(
                Portable::from_ours(text).unwrap_err().contains("upstream export"),
                "{text}"
            );
        }
        let keyless = r#"{"key":"none"}"#;
        assert!(Portable::from_ours(keyless).unwrap_err().contains("private key"));
    }
}
