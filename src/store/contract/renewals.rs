//! Renewal (RFC 9773): certificates by name, one replacement for each, and whom to ask the CA about next.

use std::sync::Arc;
use std::time::Duration;

use crate::acme::account::Account;
use crate::acme::id::AuthorizationId;
use crate::acme::offers::Offers;
use crate::acme::order::{Order, Wishes};
use crate::acme::problem::Problem;
use crate::acme::renewal::{Advice, CertificateId, RenewalInfo};
use crate::acme::revocation::RevocationReason;
use crate::acme::upstream::UpstreamName;
use crate::store::contract::{
    Backend, LIFETIME, account, all, at, create, far, finalized, issued_to, names, order,
};
use crate::store::{Registration, Store, StoreError, Versioned, offers};

const HERE: UpstreamName = UpstreamName::DEFAULT;

/// A client's order whose certificate is here, and the certificate's name.
async fn stored(store: &Arc<dyn Store>, host: &str) -> (Order, CertificateId) {
    let owner: Account = account();
    assert!(matches!(
        store.create_account(&owner).await,
        Ok(Registration::Created)
    ));
    let (order, _) = issued_to(owner.id(), host);
    create(store, &order, None).await;
    let id = CertificateId::of(order.certificate().unwrap().leaf()).unwrap();
    (order, id)
}

fn replacing(id: &CertificateId) -> Order {
    let wishes = Wishes {
        replaces: Some(id.clone()),
        ..Wishes::default()
    };
    order(account().id()).wishing(wishes)
}

pub(crate) async fn n2_a_certificate_is_found_by_its_name_as_long_as_its_order_is_there(
    backend: &impl Backend,
) {
    let store = backend.open().await;
    let (order, id) = stored(&store, "a.example.com").await;
    let (other, other_id) = stored(&store, "b.example.com").await;
    drop(store);
    let store = backend.open().await;
    assert_eq!(store.order_of_certificate_id(&id).await, Ok(Some(order.id())));
    assert_eq!(
        store.order_of_certificate_id(&other_id).await,
        Ok(Some(other.id()))
    );
    let unknown = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE".parse().unwrap();
    assert_eq!(store.order_of_certificate_id(&unknown).await, Ok(None));
    assert_eq!(store.sweep(far(), 100).await, Ok(2));
    assert_eq!(store.order_of_certificate_id(&id).await, Ok(None));
}

pub(crate) async fn n4_of_many_orders_that_replace_a_certificate_one_is_stored(backend: &impl Backend) {
    let store = backend.open().await;
    let (_, id) = stored(&store, "www.example.com").await;
    let attempts = (0..50).map(|_| {
        let (store, order) = (Arc::clone(&store), replacing(&id));
        async move { (order.id(), store.create_order(&order, None).await) }
    });
    let (mut stored, mut refused) = (Vec::new(), 0);
    for (order, outcome) in all(attempts).await {
        match outcome {
            Ok(()) => stored.push(order),
            Err(StoreError::Conflict) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((stored.len(), refused), (1, 49));
    assert_eq!(store.replacement_of(&id).await, Ok(Some(stored[0])));
    drop(store);
    let store = backend.open().await;
    let late = store.create_order(&replacing(&id), None).await;
    assert_eq!(late, Err(StoreError::Conflict));
}

pub(crate) async fn n4_a_failed_replacement_frees_the_certificate(backend: &impl Backend) {
    let store = backend.open().await;
    let (_, id) = stored(&store, "www.example.com").await;
    // It fails, it expires, or it is swept.
    let failed = replacing(&id);
    create(&store, &failed, None).await;
    assert_eq!(failed.clone().gives_up_replacing(at(5)), failed, "it may succeed");
    let authorization = AuthorizationId {
        order: failed.id(),
        index: 0,
    };
    let given_up = failed.deactivate_authorization(authorization, at(5)).unwrap();
    let given_up = Versioned::with(1, given_up);
    store.commit(given_up, None).await.unwrap();
    assert_eq!(store.replacement_of(&id).await, Ok(None));
    let expired = replacing(&id);
    create(&store, &expired, None).await;
    let over = expired.clone().gives_up_replacing(at(0) + LIFETIME);
    store.commit(Versioned::with(1, over), None).await.unwrap();
    assert_eq!(store.replacement_of(&id).await, Ok(None));
    let swept = replacing(&id);
    create(&store, &swept, None).await;
    assert_eq!(store.replacement_of(&id).await, Ok(Some(swept.id())));
    assert_eq!(store.sweep(at(3 * 24 * 3600), 100).await, Ok(3));
    assert_eq!(store.replacement_of(&id).await, Ok(None));
    // One that is still there leaves its place to nobody.
    let last = replacing(&id);
    create(&store, &last, None).await;
    let processing = finalized(names(&["www.example.com"]), at(3));
    let processing = processing.wishing(last.wishes().clone());
    let ended = processing.failed(Problem::internal(), at(4));
    create(&store, &ended, None).await;
    assert_eq!(store.replacement_of(&id).await, Ok(Some(last.id())));
}

pub(crate) async fn n5_the_ca_is_to_be_asked_about_those_who_have_waited_longest(backend: &impl Backend) {
    let store = backend.open().await;
    let (first, _) = stored(&store, "a.example.com").await;
    let (second, _) = stored(&store, "b.example.com").await;
    let (third, _) = stored(&store, "c.example.com").await;
    let mut waiting = vec![first.id(), second.id(), third.id()];
    waiting.sort();
    assert_eq!(store.renewals_due(HERE, at(0), 10).await.unwrap(), []);
    let elsewhere: UpstreamName = "elsewhere".parse().unwrap();
    assert_eq!(store.renewals_due(elsewhere, far(), 10).await.unwrap(), []);
    assert_eq!(store.renewals_due(HERE, at(1), 10).await.unwrap(), waiting);
    assert_eq!(store.renewals_due(HERE, at(1), 2).await.unwrap(), waiting[..2]);
    let window = RenewalInfo::new(at(50), at(60), None);
    let advice = |seconds| Advice::heard(window.clone(), None, at(1), Duration::from_secs(seconds));
    let advised = Versioned::with(1, first.clone().advised(advice(500)));
    store.commit(advised, None).await.unwrap();
    let advised = Versioned::with(1, second.clone().advised(advice(100)));
    store.commit(advised, None).await.unwrap();
    assert_eq!(store.renewals_due(HERE, at(100), 10).await.unwrap(), [third.id()]);
    assert_eq!(
        store.renewals_due(HERE, at(501), 10).await.unwrap(),
        [third.id(), second.id(), first.id()]
    );
    drop(store);
    let store = backend.open().await;
    let read = store.order(first.id()).await.unwrap().unwrap();
    assert_eq!(read.value.renewal(), window);
    // Of a revoked certificate nobody asks any more, nor of one that ends before.
    let (revoked, _) = read
        .value
        .request_revocation(Some(RevocationReason::Superseded), at(2))
        .unwrap();
    let revoked = revoked.settle_revocation(Ok(()), at(3));
    assert!(revoked.renewal().unwrap().end() < at(3));
    let over = second.advised(advice(200 * 24 * 3600));
    store
        .commit(Versioned::with(read.version, revoked), None)
        .await
        .unwrap();
    store.commit(Versioned::with(2, over), None).await.unwrap();
    assert_eq!(store.renewals_due(HERE, far(), 10).await.unwrap(), [third.id()]);
}

pub(crate) async fn what_the_ca_offers_is_there_after_reopening(backend: &impl Backend) {
    let store = backend.open().await;
    assert_eq!(offers::load(&*store, HERE).await, Ok(Offers::default()));
    let told = Offers {
        profiles: [("shortlived".to_owned(), "six days".to_owned())].into(),
        renewal_info: true,
    };
    let known = async || offers::known(&*store, HERE).await.unwrap();
    for offers in [&Offers::default(), &told, &told] {
        offers::save(&*store, HERE, &known().await, offers).await.unwrap();
    }
    let earlier = Versioned::with(1, Offers::default());
    let late = offers::save(&*store, HERE, &earlier, &told);
    assert_eq!(
        late.await,
        Err(StoreError::Conflict),
        "asked before that was written"
    );
    let before = store.census().await.unwrap().commits;
    offers::save(&*store, HERE, &known().await, &told).await.unwrap();
    assert_eq!(
        store.census().await.unwrap().commits,
        before,
        "nothing has changed"
    );
    drop(store);
    let store = backend.open().await;
    assert_eq!(offers::load(&*store, HERE).await, Ok(told));
}
