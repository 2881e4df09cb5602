//! `dns01_txt`: lego's names of providers and variables, and what is said where one is missing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use acme_proxy::upstream::dns::Dns01;
use acme_proxy::upstream::dns::known;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use crate::config::lines;
use crate::config::load;

const PLACE: &str = "/authority/config/dns01_txt";

/// A provider, variables with which it starts, and those that it can not do without.
const PROVIDERS: [(&str, &str, &str); 11] = [
    (
        "acme-dns",
        r#"{"ACME_DNS_API_BASE": "http://10.0.0.1:4443", "ACME_DNS_STORAGE_PATH": "/var/lib/acme-dns.json"}"#,
        "ACME_DNS_API_BASE ACME_DNS_STORAGE_PATH",
    ),
    (
        "azuredns",
        r#"{"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "CANARY", "AZURE_RESOURCE_GROUP": "g"}"#,
        "AZURE_TENANT_ID AZURE_CLIENT_ID AZURE_CLIENT_SECRET",
    ),
    (
        "cloudflare",
        r#"{"CF_DNS_API_TOKEN": "CANARY", "CLOUDFLARE_TTL": "300"}"#,
        "CLOUDFLARE_DNS_API_TOKEN",
    ),
    ("desec", r#"{"DESEC_TOKEN": "CANARY"}"#, "DESEC_TOKEN"),
    ("digitalocean", r#"{"DO_AUTH_TOKEN": "CANARY"}"#, "DO_AUTH_TOKEN"),
    (
        "httpreq",
        r#"{"HTTPREQ_ENDPOINT": "https://dns.example.com/api", "HTTPREQ_MODE": "RAW"}"#,
        "HTTPREQ_ENDPOINT",
    ),
    (
        "infoblox",
        r#"{"INFOBLOX_HOST": "grid.example.com", "INFOBLOX_USERNAME": "u", "INFOBLOX_PASSWORD": "CANARY"}"#,
        "INFOBLOX_HOST INFOBLOX_USERNAME INFOBLOX_PASSWORD",
    ),
    (
        "ovh",
        r#"{"OVH_ENDPOINT": "ovh-eu", "OVH_APPLICATION_KEY": "CANARY-1", "OVH_APPLICATION_SECRET": "CANARY-2",
            "OVH_CONSUMER_KEY": "CANARY-3"}"#,
        "OVH_APPLICATION_KEY OVH_APPLICATION_SECRET OVH_CONSUMER_KEY",
    ),
    (
        "rfc2136",
        r#"{"RFC2136_NAMESERVER": "ns1.example.com", "RFC2136_TSIG_KEY": "k", "RFC2136_TSIG_SECRET": "Q0FOQVJZ"}"#,
        "RFC2136_NAMESERVER",
    ),
    (
        "route53",
        r#"{"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "CANARY", "AWS_REGION": "eu-central-1"}"#,
        "AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY",
    ),
    ("gcloud", "", "GCE_SERVICE_ACCOUNT"),
];

fn solver(provider: &str, variables: Value) -> [(&'static str, Value); 1] {
    [(PLACE, json!({ "provider": provider, "env_vars": variables }))]
}

fn read(provider: &str, variables: Value) -> Dns01 {
    let config = load(&solver(provider, variables)).unwrap();
    config.upstreams[0].settings.dns01.clone().unwrap()
}

#[test]
fn every_provider_starts_with_legos_variables_and_never_prints_them() {
    let known: Vec<_> = known::names().collect();
    assert!(PROVIDERS.iter().all(|(name, ..)| known.contains(name)) && known.len() == PROVIDERS.len() + 1);
    for (name, variables, _) in PROVIDERS
        .into_iter()
        .filter(|(_, variables, _)| !variables.is_empty())
    {
        let config = load(&solver(name, serde_json::from_str(variables).unwrap())).unwrap();
        assert!(config.warnings.is_empty(), "{name}: {:?}", config.warnings);
        assert!(
            config
                .report()
                .contains(&format!("solved by the DNS provider {name}."))
        );
        let printed = format!("{config:?}{}", config.report());
        assert!(
            !printed.contains("CANARY") && !printed.contains("Q0FOQVJZ"),
            "{name}: {printed}"
        );
    }
}

#[test]
fn missing_credentials_are_an_error_with_key_and_variable_and_fix() {
    for (name, _, missing) in PROVIDERS {
        let lines = lines(load(&solver(name, json!({}))));
        let missing: Vec<_> = missing.split(' ').collect();
        assert_eq!(lines.len(), missing.len(), "{name}: {lines:#?}");
        for (line, variable) in lines.iter().zip(missing) {
            let said = format!("authority.config.dns01_txt.env_vars: {variable} is missing; write ");
            assert!(line.contains(&said), "{name}: {line}");
        }
    }
}

#[test]
fn what_can_not_be_honoured_is_an_error_and_what_is_unknown_a_warning() {
    for (name, variables, said) in [
        (
            "rfc2136",
            json!({"RFC2136_NAMESERVER": "ns", "RFC2136_TSIG_KEY": "k"}),
            "RFC2136_TSIG_SECRET is missing",
        ),
        (
            "rfc2136",
            json!({"RFC2136_NAMESERVER": "ns", "RFC2136_TSIG_KEY": "k", "RFC2136_TSIG_SECRET": "c2VjcmV0",
                "RFC2136_TSIG_ALGORITHM": "hmac-md5.sig-alg.reg.int."}),
            "env_vars.RFC2136_TSIG_ALGORITHM: is unknown; write one of hmac-sha1, hmac-sha224, hmac-sha256",
        ),
        (
            "infoblox",
            json!({"INFOBLOX_HOST": "h", "INFOBLOX_USERNAME": "u", "INFOBLOX_PASSWORD": "p", "INFOBLOX_SSL_VERIFY": "false"}),
            "INFOBLOX_SSL_VERIFY: can not be \"false\"",
        ),
        (
            "route53",
            json!({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ASSUME_ROLE_ARN": "arn"}),
            "AWS_ASSUME_ROLE_ARN: is not available in this version",
        ),
        (
            "dnsupdate",
            json!({"DNSUPDATE_NAMESERVER": "ns", "DNSUPDATE_TSIG_KEY": "k", "DNSUPDATE_TSIG_SECRET": "?"}),
            "env_vars.DNSUPDATE_TSIG_SECRET: is not base64",
        ),
        (
            "cloudflare",
            json!({"CF_DNS_API_TOKEN": "t", "CF_TTL": "soon"}),
            "env_vars.CF_TTL: is no number of seconds",
        ),
        (
            "infoblox",
            json!({"INFOBLOX_HOST": "h", "INFOBLOX_USERNAME": "u", "INFOBLOX_PASSWORD": "p", "INFOBLOX_CA_CERTIFICATE": "/no.pem"}),
            "env_vars.INFOBLOX_CA_CERTIFICATE: names /no.pem, which can not be used",
        ),
        (
            "desec",
            json!({"DESEC_TOKEN": "t", "LEGO_DISABLE_CNAME_SUPPORT": "perhaps"}),
            "env_vars.LEGO_DISABLE_CNAME_SUPPORT: is neither",
        ),
        (
            "httpreq",
            json!({"HTTPREQ_ENDPOINT": "ftp://dns.example.com"}),
            "HTTPREQ_ENDPOINT",
        ),
        (
            "cloudflare",
            json!({"CF_DNS_API_TOKEN": "t", "CLOUDFLARE_BASE_URL": "http://a.example"}),
            "is no https URL",
        ),
        (
            "cloudflare",
            json!({"CF_API_EMAIL": "a@example.com"}),
            "CLOUDFLARE_API_KEY is missing",
        ),
        (
            "ovh",
            json!({"OVH_ENDPOINT": "ovh-mars"}),
            "env_vars.OVH_ENDPOINT",
        ),
        (
            "ovh",
            json!({"OVH_CLIENT_ID": "i", "OVH_CLIENT_SECRET": "s", "OVH_ACCESS_TOKEN": "t"}),
            "OVH_ACCESS_TOKEN",
        ),
        (
            "desec",
            json!({"DESEC_TOKEN": "t", "DESEC_TTL": "soon"}),
            "DESEC_TTL",
        ),
        (
            "gcloud",
            json!({"GCE_SERVICE_ACCOUNT": "{}"}),
            "GCE_SERVICE_ACCOUNT: is not the JSON",
        ),
        (
            "azuredns",
            json!({"AZURE_TENANT_ID": "a/b", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "s"}),
            "AZURE_TENANT_ID",
        ),
    ] {
        let lines = lines(load(&solver(name, variables)));
        assert!(lines.len() == 1 && lines[0].contains(said), "{name}: {lines:#?}");
    }
    let odd = json!({"DESEC_TOKEN": "t", "DESEC_TOKEM": "u", "DESEC_HTTP_TIMEOUT": "30"});
    let warnings = load(&solver("desec", odd)).unwrap().warnings.join("\n");
    assert!(
        warnings.contains("env_vars.DESEC_TOKEM: is no variable of this provider"),
        "{warnings}"
    );
    assert!(
        warnings.contains("env_vars.DESEC_HTTP_TIMEOUT: has no effect here"),
        "{warnings}"
    );
}

#[test]
fn a_value_may_be_in_a_file_in_both_notations() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("secret");
    fs::write(&path, "the-token\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    for variables in [
        json!({ "DESEC_TOKEN_FILE": path, "DESEC_PROPAGATION_TIMEOUT": "300" }),
        json!({ "DESEC_TOKEN": format!("file:{}", path.display()), "DESEC_PROPAGATION_TIMEOUT": "300" }),
    ] {
        let settings = read("desec", variables);
        assert_eq!(settings.secrets[0].reveal(), "the-token");
        assert_eq!(settings.propagation_timeout, Duration::from_secs(300));
    }
    let credentials = "[default]\naws_access_key_id = id\naws_secret_access_key = the-secret\n";
    fs::write(&path, credentials).unwrap();
    let secrets = read("route53", json!({ "AWS_SHARED_CREDENTIALS_FILE": path })).secrets;
    assert!(secrets.iter().any(|secret| secret.reveal() == "the-secret"));
    fs::write(
        &path,
        "key \"k\" {\n  algorithm hmac-sha512;\n  secret \"dGhlLXNlY3JldA==\";\n};\n",
    )
    .unwrap();
    let variables = json!({ "RFC2136_NAMESERVER": "ns1.example.com", "RFC2136_TSIG_FILE": path });
    let settings = read("rfc2136", variables);
    assert!(format!("{settings:?}").contains("HmacSha512"));
}
