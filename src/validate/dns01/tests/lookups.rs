//! Look-ups that fail, and aliases: C801, C804.

use super::*;

#[tokio::test]
async fn c801_f18_a_look_up_that_fails_is_dns_tried_again_and_never_valid() {
    let with_record = |code| Answer::Code(code, vec![txt(PLACE, &right())]);
    let answers = [
        Answer::NoRecords,
        Answer::NxDomain,
        Answer::ServFail,
        Answer::Refused,
        Answer::Silence,
        Answer::Code(ResponseCode::FormErr, vec![]),
        Answer::Code(ResponseCode::NotImp, vec![]),
        // No record counts in an answer that says that something is wrong.
        with_record(ResponseCode::NXDomain),
        with_record(ResponseCode::ServFail),
        with_record(ResponseCode::Refused),
        with_record(ResponseCode::Unknown(11)),
    ];
    for answer in answers {
        let failure = always(answer.clone()).await.unwrap_err();
        assert_eq!((failure.problem.kind, failure.transient), DNS, "{answer:?}");
        assert!(
            failure.problem.detail.contains(PLACE),
            "{}",
            failure.problem.detail
        );
    }
}

#[tokio::test]
async fn c801_each_reason_has_its_sentence() {
    let sentences = [
        (Answer::NxDomain, "does not exist in DNS (NXDOMAIN)"),
        (Answer::NoRecords, "has no TXT record"),
        (Answer::ServFail, "the DNS look-up of TXT records at"),
        (Answer::Refused, "the DNS look-up of TXT records at"),
    ];
    for (answer, sentence) in sentences {
        let told = always(answer).await.unwrap_err().problem.detail;
        assert!(told.contains(sentence), "{told}");
    }
}

#[tokio::test]
async fn f19_no_server_at_all_is_dns_and_tried_again() {
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    assert_eq!(kinds(attempt(&[address], "www.example.com").await), DNS);
}

/// A chain of so many CNAME records, and the right TXT record at its end.
fn chain(length: usize) -> Vec<Record> {
    let name = |n: usize| match n {
        0 => PLACE.to_owned(),
        n => format!("a{n}.delegated.example.net"),
    };
    let mut records: Vec<Record> = (0..length).map(|n| cname(&name(n), &name(n + 1))).collect();
    records.push(txt(&name(length), &right()));
    records
}

const TOO_MANY: (ProblemType, bool) = (ProblemType::Dns, false);

#[tokio::test]
async fn c804_aliases_into_another_zone_are_followed_in_any_order_of_the_answer_up_to_eight() {
    for length in [1, 8] {
        always(Answer::Records(chain(length))).await.unwrap();
        let mut reversed = chain(length);
        reversed.reverse();
        always(Answer::Records(reversed)).await.unwrap();
    }
    assert_eq!(kinds(always(Answer::Records(chain(9))).await), TOO_MANY);
}

#[tokio::test]
async fn c804_a_server_that_answers_with_the_alias_alone_is_asked_for_its_target_up_to_eight_times() {
    let alone = |length| {
        answered(move |name| {
            let of_name = |record: &Record| record.name.to_ascii() == format!("{name}.");
            Answer::Records(chain(length).into_iter().filter(of_name).collect())
        })
    };
    for length in [1, 2, 7, 8] {
        alone(length).await.unwrap();
    }
    assert_eq!(kinds(alone(9).await), TOO_MANY);
}

#[tokio::test]
async fn c804_loops_end() {
    let itself = always(Answer::Records(vec![cname(PLACE, PLACE)]));
    assert_eq!(kinds(itself.await), TOO_MANY);
    let other = "b.example.com";
    let in_one_answer = vec![cname(PLACE, other), cname(other, PLACE), txt(other, &right())];
    assert_eq!(kinds(always(Answer::Records(in_one_answer)).await), TOO_MANY);
    let over_several = answered(move |name| match name {
        PLACE => Answer::Records(vec![cname(PLACE, other)]),
        _ => Answer::Records(vec![cname(other, PLACE)]),
    });
    assert_eq!(kinds(over_several.await), TOO_MANY);
}

#[tokio::test]
async fn c804_beside_an_alias_the_record_of_its_target_counts_alone() {
    let other = "b.example.com";
    let both = |own: &str, target: &str| {
        let records = vec![
            txt(PLACE, own),
            cname(PLACE, other),
            txt(other, target),
            txt("c.example.com", &right()),
        ];
        always(Answer::Records(records))
    };
    both("wrong", &right()).await.unwrap();
    assert_eq!(kinds(both(&right(), "wrong").await), WRONG);
}

#[tokio::test]
async fn c804_an_alias_to_nothing_is_dns() {
    for answer in [Answer::NxDomain, Answer::NoRecords, Answer::ServFail] {
        let dangling = answered(move |name| match name {
            PLACE => Answer::Records(vec![cname(PLACE, "gone.example.net")]),
            _ => answer.clone(),
        });
        assert_eq!(kinds(dangling.await), DNS);
    }
    let in_one_answer = Answer::Code(ResponseCode::NXDomain, vec![cname(PLACE, "gone.example.net")]);
    assert_eq!(kinds(always(in_one_answer).await), DNS);
}

#[tokio::test]
async fn c804_of_a_dname_the_alias_that_the_server_makes_is_followed_and_no_other() {
    // RFC 6672 §2.1: type 39, here to example.net.
    let target = b"\x07example\x03net\x00";
    let dname = record(
        "www.example.com",
        RData::Unknown {
            code: RecordType::from(39),
            rdata: NULL::with(target.to_vec()),
        },
    );
    let moved = "_acme-challenge.example.net";
    let made = vec![dname.clone(), cname(PLACE, moved), txt(moved, &right())];
    always(Answer::Records(made)).await.unwrap();
    let alone = vec![dname, txt(moved, &right())];
    assert_eq!(kinds(always(Answer::Records(alone)).await), DNS);
}
