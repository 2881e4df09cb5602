//! What the records hold: C802, C803, C808.

use super::*;

/// One attempt with TXT records of these values.
async fn with(values: &[&str]) -> Result<(), Failure> {
    let records = values.iter().map(|value| txt(PLACE, value)).collect();
    always(Answer::Records(records)).await
}

#[tokio::test]
async fn c803_only_the_exact_digest_is_valid() {
    let right = right();
    let wrong = [
        String::new(),
        MARKER.to_owned(),
        right.to_uppercase(),
        right.to_lowercase(),
        format!("\"{right}\""),
        format!("\"{right}"),
        format!(" {right}"),
        format!("{right} "),
        format!("{right}\n"),
        format!("{right}\0"),
        format!("{right}="),
        format!("{right}{right}"),
        format!("x {right}"),
        right[..right.len() - 1].to_owned(),
        right.replace(['-', '_'], "+"),
    ];
    for value in wrong {
        assert_eq!(kinds(with(&[&value]).await), WRONG, "{value:?}");
    }
    with(&[&right]).await.unwrap();
}

#[tokio::test]
async fn c803_the_strings_of_one_record_are_joined_and_those_of_two_are_not() {
    let right = right();
    let bytes = right.as_bytes();
    let split = [
        vec![&bytes[..1], &bytes[1..]],
        vec![&bytes[..20], b"".as_slice(), &bytes[20..]],
        bytes.chunks(1).collect(),
    ];
    for strings_of_one in split {
        let record = strings(PLACE, &strings_of_one);
        always(Answer::Records(vec![record])).await.unwrap();
    }
    assert_eq!(kinds(with(&[&right[..20], &right[20..]]).await), WRONG);
    let reversed = strings(PLACE, &[&bytes[20..], &bytes[..20]]);
    assert_eq!(kinds(always(Answer::Records(vec![reversed])).await), WRONG);
}

#[tokio::test]
async fn bytes_that_are_no_text_are_compared_and_not_told() {
    let junk = strings(PLACE, &[&[0xff; 255], &[0; 255], MARKER.as_bytes()]);
    assert_eq!(kinds(always(Answer::Records(vec![junk.clone()])).await), WRONG);
    let records = vec![junk.clone(), txt(PLACE, &right()), junk];
    always(Answer::Records(records)).await.unwrap();
}

#[tokio::test]
async fn c802_of_1000_records_one_right_one_is_enough_and_1001_are_refused_for_good() {
    let many = |count: usize| {
        let mut records: Vec<Record> = (1..count).map(|n| txt(PLACE, &n.to_string())).collect();
        records.push(txt(PLACE, &right()));
        Answer::Records(records)
    };
    always(many(1000)).await.unwrap();
    let failure = always(many(1001)).await.unwrap_err();
    assert_eq!(
        (failure.problem.kind, failure.transient),
        (ProblemType::IncorrectResponse, false)
    );
    assert!(failure.problem.detail.contains("more than 1000 TXT records"));
}

#[tokio::test]
async fn c808_a_value_that_is_nearly_right_gets_a_hint() {
    let right = right();
    let hints = [
        (TOKEN_AND_THUMBPRINT.to_owned(), "the key authorization itself"),
        (
            format!("\"{TOKEN_AND_THUMBPRINT}\""),
            "the key authorization itself",
        ),
        (format!("\"{right}\""), "quotes, blanks or padding"),
        (format!("\\\"{right}\\\""), "quotes, blanks or padding"),
        (format!("{right}="), "quotes, blanks or padding"),
        (format!(" {right}"), "quotes, blanks or padding"),
        (MARKER.to_owned(), "none has the digest"),
    ];
    for (value, hint) in hints {
        let failure = with(&["other", &value]).await.unwrap_err();
        assert_eq!(failure.problem.kind, ProblemType::IncorrectResponse);
        let told = &failure.problem.detail;
        assert!(told.contains(hint) && told.contains(PLACE), "{value}: {told}");
        assert!(
            !told.contains(&right) && !told.contains(TOKEN_AND_THUMBPRINT),
            "{told}"
        );
    }
}
