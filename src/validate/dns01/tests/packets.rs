//! Packets that are forged, cut or broken: C801, C805 to C807.

use super::*;

fn right_record() -> Vec<Record> {
    vec![txt(PLACE, &right())]
}

#[tokio::test]
async fn c801_a_truncated_answer_is_asked_for_over_tcp_and_without_tcp_it_is_dns() {
    let long = || {
        let mut records = vec![txt(PLACE, &"x".repeat(250)); 10];
        records.extend(right_record());
        records
    };
    let dns = DnsServer::start(move |_, _| Answer::Records(long())).await;
    attempt(&[dns.address], "www.example.com").await.unwrap();
    assert_eq!(dns.queries(RecordType::TXT), 2);
    let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    tokio::spawn(async move {
        let mut packet = [0; 4096];
        loop {
            let (length, from) = udp.recv_from(&mut packet).await.unwrap();
            let mut message = Message::from_vec(&packet[..length]).unwrap().into_response();
            message.metadata.truncation = true;
            message.add_answers(right_record());
            udp.send_to(&message.to_vec().unwrap(), from).await.unwrap();
        }
    });
    assert_eq!(kinds(attempt(&[address], "www.example.com").await), DNS);
}

#[tokio::test]
async fn an_answer_that_is_cut_is_asked_for_over_tcp_whether_it_says_so_or_not() {
    for truncation in [true, false] {
        for length in [12, 60, 80] {
            always(Answer::Cut(length, truncation, right_record()))
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn c805_a_forged_answer_is_ignored_and_the_true_one_is_taken() {
    for forgery in [
        Forgery::Id,
        Forgery::Name,
        Forgery::Type,
        Forgery::Class,
        Forgery::Sender,
    ] {
        let true_no = Answer::After(forgery, right_record(), Box::new(Answer::NoRecords));
        assert_eq!(kinds(always(true_no).await), DNS, "{forgery:?}");
        let no_answer = Answer::After(forgery, right_record(), Box::new(Answer::Silence));
        assert_eq!(kinds(always(no_answer).await), DNS, "{forgery:?}");
        let forged = vec![txt(PLACE, "forged")];
        let true_yes = Answer::After(forgery, forged, Box::new(Answer::Records(right_record())));
        always(true_yes).await.unwrap();
    }
}

#[tokio::test]
async fn c805_over_tcp_an_answer_to_another_question_is_not_taken() {
    // Over UDP the answer is cut at the size of the client's buffer, so that the next query comes over TCP.
    fn long(message: Message) -> Vec<u8> {
        let mut message = message;
        message.add_answers(vec![txt(PLACE, &"x".repeat(250)); 10]);
        message.add_answers(right_record());
        message.to_vec().unwrap()
    }
    fn other(message: Message) -> Vec<u8> {
        let mut message = message;
        message.queries[0].set_name(Name::from_ascii("other.example.com.").unwrap());
        long(message)
    }
    always(Answer::Raw(long)).await.unwrap();
    assert_eq!(kinds(always(Answer::Raw(other)).await), DNS);
}

#[tokio::test]
async fn c805_records_of_another_name_class_or_type_do_not_count() {
    let mut chaos = txt(PLACE, &right());
    chaos.dns_class = DNSClass::CH;
    let null = RData::NULL(NULL::with(right().into_bytes()));
    let strays = [
        txt("other.example.com", &right()),
        txt("www.example.com", &right()),
        txt("x._acme-challenge.www.example.com", &right()),
        chaos,
        record(PLACE, null),
    ];
    for stray in strays {
        assert_eq!(kinds(always(Answer::Records(vec![stray])).await), DNS);
    }
    fn beside(message: Message) -> Vec<u8> {
        let mut message = message;
        message.add_authority(txt(PLACE, &right()));
        message.add_additional(txt(PLACE, &right()));
        message.to_vec().unwrap()
    }
    assert_eq!(kinds(always(Answer::Raw(beside)).await), DNS);
}

#[tokio::test]
async fn the_letters_case_of_an_owner_does_not_matter() {
    let owner = "_ACME-Challenge.WWW.example.COM";
    always(Answer::Records(vec![txt(owner, &right())])).await.unwrap();
    let alias = vec![cname(owner, "B.example.NET"), txt("b.EXAMPLE.net", &right())];
    always(Answer::Records(alias)).await.unwrap();
}

/// The message with one answer record of these bytes.
fn with_answer(message: Message, answers: u16, bytes: &[u8]) -> Vec<u8> {
    let mut packet = message.to_vec().unwrap();
    packet[6..8].copy_from_slice(&answers.to_be_bytes());
    packet.extend_from_slice(bytes);
    packet
}

#[tokio::test]
async fn c807_pointer_loops_and_labels_that_are_too_long_end_the_look_up() {
    fn to_itself(message: Message) -> Vec<u8> {
        let here = message.to_vec().unwrap().len() as u16 | 0xc000;
        with_answer(message, 1, &[&here.to_be_bytes()[..], &[0, 16, 0, 1]].concat())
    }
    fn to_each_other(message: Message) -> Vec<u8> {
        let here = message.to_vec().unwrap().len() as u16 | 0xc000;
        let pointers = [(here + 2).to_be_bytes(), here.to_be_bytes()].concat();
        with_answer(message, 1, &[&pointers[..], &[0, 16, 0, 1]].concat())
    }
    fn long_label(message: Message) -> Vec<u8> {
        with_answer(
            message,
            1,
            &[&[64][..], &[b'a'; 64], &[0, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0]].concat(),
        )
    }
    fn long_name(message: Message) -> Vec<u8> {
        let labels = [&[63][..], &[b'a'; 63]].concat().repeat(5);
        with_answer(
            message,
            1,
            &[&labels[..], &[0, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0]].concat(),
        )
    }
    fn more_than_there_is(message: Message) -> Vec<u8> {
        with_answer(message, 65_535, &[])
    }
    fn nothing(_: Message) -> Vec<u8> {
        Vec::new()
    }
    fn half_a_header(message: Message) -> Vec<u8> {
        message.to_vec().unwrap()[..7].to_vec()
    }
    let broken: [fn(Message) -> Vec<u8>; 7] = [
        to_itself,
        to_each_other,
        long_label,
        long_name,
        more_than_there_is,
        nothing,
        half_a_header,
    ];
    for packet in broken {
        assert_eq!(kinds(always(Answer::Raw(packet)).await), DNS);
    }
}

#[tokio::test]
async fn c807_a_compressed_bomb_over_tcp_ends_the_look_up() {
    fn bomb(message: Message) -> Vec<u8> {
        // Each owner is a label and a pointer to the owner before it.
        let mut packet = message.to_vec().unwrap();
        let mut before = 12_u16;
        let mut count = 0_u16;
        while packet.len() < 16_000 {
            let here = packet.len() as u16;
            packet.extend_from_slice(&[1, b'a']);
            packet.extend_from_slice(&(before | 0xc000).to_be_bytes());
            packet.extend_from_slice(&[0, 16, 0, 1, 0, 0, 0, 0, 0, 2, 1, b'x']);
            (before, count) = (here, count + 1);
        }
        packet[6..8].copy_from_slice(&count.to_be_bytes());
        packet
    }
    assert_eq!(kinds(always(Answer::Raw(bomb)).await), DNS);
}

#[tokio::test]
async fn c806_an_empty_answer_with_nsec3_records_of_another_zone_is_no_record() {
    fn denial(message: Message) -> Vec<u8> {
        let mut message = message;
        for n in 0..20 {
            let nsec3 = RData::Unknown {
                code: RecordType::from(50),
                rdata: NULL::with(vec![1, 0, 0xff, 0xff, 0, 20]),
            };
            message.add_authority(record(&format!("h{n}.evil.example.org"), nsec3));
        }
        message.to_vec().unwrap()
    }
    assert_eq!(kinds(always(Answer::Raw(denial)).await), DNS);
}
