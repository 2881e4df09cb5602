//! Each kind of violation is found, and a clean record is clean.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData as _};

use super::*;
use crate::history::Answer;

const OWN: &str = "acmeproxy.example.com";

/// A CA with a root and an intermediate.
struct Ca {
    root_pem: String,
    intermediate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let key = KeyPair::generate().unwrap();
        let params = authority("root");
        let root_pem = params.self_signed(&key).unwrap().pem();
        let root = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let params = authority("intermediate");
        let intermediate_pem = params.signed_by(&key, &root).unwrap().pem();
        Self {
            root_pem,
            intermediate_pem,
            issuer: Issuer::new(params, key),
        }
    }

    fn chain(&self, key: &KeyPair, names: &[&str]) -> String {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = CertificateParams::new(names).unwrap();
        leaf.signed_by(key, &self.issuer).unwrap().pem() + &self.intermediate_pem
    }
}

/// What a run with two orders leaves behind if all went well.
struct Run {
    ca: Ca,
    key: KeyPair,
    record: Record,
    books: Books,
}

impl Run {
    fn new() -> Self {
        let (ca, key) = (Ca::new(), KeyPair::generate().unwrap());
        let mut record = Record::default();
        let mut answers = Vec::new();
        let mut last = Vec::new();
        for (url, name) in [("order/1", "one.example.com"), ("order/2", "two.example.com")] {
            record.wishes.push(Wish {
                url: url.to_owned(),
                names: vec![name.to_owned()],
                public_key: key.subject_public_key_info(),
            });
            let chain = ca.chain(&key, &[name]);
            for status in [Status::Pending, Status::Ready, Status::Processing, Status::Valid] {
                answers.push(answer(url, Said::Order(status)));
            }
            answers.push(answer(url, Said::Chain(chain.clone())));
            answers.push(answer(&authorization(url), Said::Authorization(Status::Pending)));
            last.push(answer(url, Said::Order(Status::Valid)));
            last.push(answer(url, Said::Chain(chain)));
            last.push(answer(&authorization(url), Said::Authorization(Status::Valid)));
        }
        answers.push(answer("account/1", Said::Account(Status::Valid)));
        last.push(answer("account/1", Said::Account(Status::Valid)));
        record.before_last_look = answers.len();
        record.answers = [answers, last].concat();
        let sale = |name: &str| Sale {
            names: vec![name.to_owned()],
            finalizes: 1,
            issued: 1,
        };
        let books = Books {
            accounts: 1,
            eab_uses: 1,
            sales: [OWN, "one.example.com", "two.example.com"].map(sale).to_vec(),
            root_pem: ca.root_pem.clone(),
            own_names: vec![OWN.to_owned()],
        };
        Self {
            ca,
            key,
            record,
            books,
        }
    }

    /// Something was said before the last look.
    fn said(&mut self, url: &str, said: Said) {
        self.record
            .answers
            .insert(self.record.before_last_look, answer(url, said));
        self.record.before_last_look += 1;
    }

    /// The last look says something else about this.
    fn says_last(&mut self, url: &str, said: &Said) {
        let before = self.record.before_last_look;
        let same = |answer: &&mut Answer| {
            answer.url == url && std::mem::discriminant(&answer.said) == std::mem::discriminant(said)
        };
        for answer in self.record.answers.iter_mut().skip(before).filter(same) {
            answer.said = said.clone();
        }
    }

    /// The last look does not find it.
    fn hides(&mut self, url: &str) {
        let before = self.record.before_last_look;
        let mut number = 0;
        self.record.answers.retain(|answer| {
            number += 1;
            number <= before || answer.url != url
        });
    }

    #[track_caller]
    fn shows(&self, kinds: &[Kind]) {
        let found = violations(&self.record, &self.books);
        let found_kinds: Vec<Kind> = found.iter().map(|found| found.kind).collect();
        assert_eq!(found_kinds, kinds, "{found:#?}");
    }
}

fn answer(url: &str, said: Said) -> Answer {
    Answer {
        url: url.to_owned(),
        replica: 0,
        said,
    }
}

fn authorization(order: &str) -> String {
    order.replace("order", "authorization")
}

#[test]
fn a_run_in_which_every_word_was_kept_is_clean() {
    Run::new().shows(&[]);
}

#[test]
fn i3_what_was_acknowledged_and_is_not_there_at_the_end_is_lost() {
    for url in ["order/1", "account/1", "authorization/1"] {
        let mut run = Run::new();
        run.hides(url);
        run.shows(&[Kind::Lost]);
    }
}

#[test]
fn i3_what_is_denied_once_was_lost_for_that_time() {
    let mut run = Run::new();
    run.said("order/1", Said::Denied("there is no such order".to_owned()));
    run.shows(&[Kind::Lost]);
}

#[test]
fn i3_an_order_that_nobody_was_ever_told_about_again_is_lost() {
    let mut run = Run::new();
    run.record.answers.retain(|answer| answer.url != "order/1");
    run.record.before_last_look -= 5;
    run.books.sales.remove(1);
    run.shows(&[Kind::Lost]);
}

#[test]
fn i3_a_valid_order_without_its_certificate_has_lost_it() {
    let mut run = Run::new();
    let is_chain = |answer: &Answer| answer.url == "order/1" && matches!(answer.said, Said::Chain(_));
    run.record.answers.retain(|answer| !is_chain(answer));
    run.record.before_last_look -= 1;
    run.shows(&[Kind::Lost]);
}

#[test]
fn i4_a_status_that_goes_where_rfc_8555_7_1_6_shows_no_way_goes_backwards() {
    let ways = [
        ("order/1", Said::Order(Status::Processing)),
        ("order/1", Said::Order(Status::Ready)),
        ("order/1", Said::Order(Status::Invalid)),
    ];
    for (url, said) in ways {
        let mut run = Run::new();
        run.said(url, said);
        let back_and_forth = violations(&run.record, &run.books);
        assert_eq!(
            back_and_forth.first().map(|found| found.kind),
            Some(Kind::Backwards)
        );
    }
    let mut run = Run::new();
    run.said("authorization/1", Said::Authorization(Status::Invalid));
    run.shows(&[Kind::Backwards]);
    let mut run = Run::new();
    run.said("account/1", Said::Account(Status::Deactivated));
    run.shows(&[Kind::Backwards, Kind::Backwards]);
    let mut run = Run::new();
    run.says_last("order/1", &Said::Order(Status::Ready));
    let kinds = [Kind::Backwards, Kind::Stuck, Kind::IssuedTwice];
    run.shows(&kinds);
}

#[test]
fn steps_that_nobody_saw_are_no_violation() {
    let mut run = Run::new();
    let seen = [Said::Order(Status::Ready), Said::Order(Status::Processing)];
    run.record.answers.retain(|answer| !seen.contains(&answer.said));
    run.record.before_last_look -= 4;
    run.shows(&[]);
}

#[test]
fn an_order_that_never_ends_is_stuck() {
    let mut run = Run::new();
    let url = "order/3";
    run.record.wishes.push(Wish {
        url: url.to_owned(),
        names: vec!["three.example.com".to_owned()],
        public_key: Vec::new(),
    });
    run.said(url, Said::Order(Status::Processing));
    run.record
        .answers
        .push(answer(url, Said::Order(Status::Processing)));
    run.shows(&[Kind::Stuck]);
}

#[test]
fn an_order_that_ends_without_its_certificate_has_failed() {
    let mut run = Run::new();
    let url = "order/3";
    run.record.wishes.push(Wish {
        url: url.to_owned(),
        names: vec!["three.example.com".to_owned()],
        public_key: Vec::new(),
    });
    run.said(url, Said::Order(Status::Processing));
    run.record.answers.push(answer(url, Said::Order(Status::Invalid)));
    run.shows(&[Kind::Failed]);
}

#[test]
fn f44_a_second_certificate_for_an_order_is_found_whether_it_has_an_order_at_the_ca_or_not() {
    let mut run = Run::new();
    let again = run.books.sales[1].clone();
    run.books.sales.push(again);
    run.shows(&[Kind::IssuedTwice]);
    // The CA takes the second request for the same certificate: that it was made is wrong enough.
    let mut run = Run::new();
    run.books.sales[1].finalizes = 2;
    run.shows(&[Kind::IssuedTwice]);
}

#[test]
fn f44_the_own_certificate_is_bought_once() {
    let mut run = Run::new();
    let again = run.books.sales[0].clone();
    run.books.sales.push(again);
    run.shows(&[Kind::IssuedTwice]);
}

#[test]
fn i5_a_certificate_of_another_order_is_mixed_up() {
    let mut run = Run::new();
    let chains: Vec<Said> = run
        .record
        .answers
        .iter()
        .filter(|answer| matches!(answer.said, Said::Chain(_)))
        .map(|answer| answer.said.clone())
        .collect();
    for answer in &mut run.record.answers {
        match &mut answer.said {
            Said::Chain(_) if answer.url == "order/2" => answer.said = chains[0].clone(),
            _ => {}
        }
    }
    // Its names are the other's, and two orders have it.
    run.shows(&[Kind::MixedUp, Kind::MixedUp]);
}

#[test]
fn i5_a_certificate_for_another_key_or_more_names_is_mixed_up() {
    let wrong: [fn(&Run) -> String; 3] = [
        |run| {
            let stranger = KeyPair::generate().unwrap();
            run.ca.chain(&stranger, &["one.example.com"])
        },
        |run| run.ca.chain(&run.key, &["one.example.com", "more.example.com"]),
        |run| Ca::new().chain(&run.key, &["one.example.com"]),
    ];
    for wrong in wrong {
        let mut run = Run::new();
        let chain = Said::Chain(wrong(&run));
        for answer in &mut run.record.answers {
            if answer.url == "order/1" && matches!(answer.said, Said::Chain(_)) {
                answer.said = chain.clone();
            }
        }
        run.shows(&[Kind::MixedUp]);
    }
}

#[test]
fn i5_a_certificate_that_changes_is_mixed_up() {
    let mut run = Run::new();
    let other = run.ca.chain(&run.key, &["one.example.com"]);
    run.says_last("order/1", &Said::Chain(other));
    run.shows(&[Kind::MixedUp]);
}

#[test]
fn a_certificate_that_the_ca_has_not_sold_is_mixed_up() {
    let mut run = Run::new();
    run.books.sales.remove(2);
    run.shows(&[Kind::MixedUp]);
}

#[test]
fn a_second_account_or_a_second_use_of_the_binding_is_found() {
    for (accounts, eab_uses) in [(2, 1), (1, 2), (0, 0)] {
        let mut run = Run::new();
        (run.books.accounts, run.books.eab_uses) = (accounts, eab_uses);
        run.shows(&[Kind::Account]);
    }
}
