//! Accounts: found, shown, and ended.

use std::sync::Arc;

use instant_acme::{Account, Identifier, NewAccount, NewOrder};

use crate::harness::instant::InstantHttp;
use crate::harness::world::World;
use crate::records::{complains, has, obtain, records, started};

async fn register(world: &World, contact: &str) -> Account {
    let http = Box::new(InstantHttp(world.installation.client()));
    let contact = [contact];
    let newcomer = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let url = world.installation.directory_url();
    Account::builder_with_http(http)
        .create(&newcomer, url, None)
        .await
        .unwrap()
        .0
}

fn id_of(account: &Account) -> String {
    account.id().rsplit('/').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_found_shown_and_ended_beside_a_daemon_and_without_one() {
    let world = Arc::new(World::new().await);
    let installation = &world.installation;
    let daemon = started(&world).await;
    obtain(&world, &["kept.test.example.com"]).await;
    let (ada, bob) = (
        register(&world, "mailto:ada@example.com").await,
        register(&world, "mailto:bob@example.net").await,
    );
    let (of_ada, of_bob) = (id_of(&ada), id_of(&bob));
    let names = [Identifier::Dns("ada.test.example.com".to_owned())];
    ada.new_order(&NewOrder::new(&names)).await.unwrap();

    assert_eq!(records(&world, "accounts", &[]).await.len(), 3);
    let found = records(&world, "accounts", &["--contact", "ada@"]).await;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (&found[0]["id"], &found[0]["status"]),
        (&of_ada.as_str().into(), &"valid".into())
    );
    let thumbprint = found[0]["key_thumbprint"].as_str().unwrap().to_owned();
    assert_eq!(
        records(&world, "accounts", &["--key-thumbprint", &thumbprint]).await,
        found
    );
    assert!(
        records(&world, "accounts", &["--status", "deactivated"])
            .await
            .is_empty()
    );
    let shown = installation.prints("accounts", &["show", &of_ada]).await;
    has(
        &shown,
        &[
            &format!("{of_ada}\n  status: valid\n  created: "),
            &format!("  key thumbprint: {thumbprint}\n  contact: mailto:ada@example.com\n"),
            "  orders: 1 pending\n",
        ],
    );
    assert_eq!(installation.prints("accounts", &["show", ada.id()]).await, shown);
    let orders = records(&world, "orders", &["--account", ada.id()]).await;
    assert_eq!(orders.len(), 1, "{orders:?}");
    assert!(
        records(&world, "certs", &["--account", ada.id()])
            .await
            .is_empty()
    );
    let table = installation.prints("accounts", &["list"]).await;
    has(&table, &["KEY THUMBPRINT", &thumbprint, "mailto:bob@example.net"]);

    let hesitant = complains(&world, "accounts", &["deactivate", &of_ada]).await;
    has(
        &hesitant,
        &[
            "can not be activated again",
            "add --yes",
            "mailto:ada@example.com",
        ],
    );
    assert!(ada.new_order(&NewOrder::new(&names)).await.is_ok());
    let ended = installation
        .prints("accounts", &["deactivate", &of_ada, "--yes"])
        .await;
    has(
        &ended,
        &[
            &of_ada,
            "certificates stay valid",
            "acme-proxy certs list --account",
        ],
    );
    let refused = ada
        .new_order(&NewOrder::new(&names))
        .await
        .err()
        .unwrap()
        .to_string();
    has(&refused, &["the account is deactivated"]);
    let again = complains(&world, "accounts", &["deactivate", &of_ada, "--yes"]).await;
    has(&again, &["is deactivated already, since "]);
    daemon.stop().await;
    has(&installation.log(), &["account deactivated by the operator"]);

    assert_eq!(
        records(&world, "accounts", &["--status", "deactivated"])
            .await
            .len(),
        1
    );
    installation
        .prints("accounts", &["deactivate", &of_bob, "--yes"])
        .await;
    assert_eq!(
        records(&world, "accounts", &["--status", "deactivated"])
            .await
            .len(),
        2
    );
    let unknown = complains(&world, "accounts", &["show", &"1".repeat(32)]).await;
    has(&unknown, &["there is no account \"1111"]);
    let daemon = started(&world).await;
    assert!(bob.new_order(&NewOrder::new(&names)).await.is_err());
    daemon.stop().await;
}
