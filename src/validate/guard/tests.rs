//! The address matrix of C601, as a table.

use super::*;

fn guard(allow: &[&str], deny: &[&str], own: &[&str]) -> Guard {
    Guard {
        allow: allow.iter().map(|net| net.parse().unwrap()).collect(),
        deny: deny.iter().map(|net| net.parse().unwrap()).collect(),
        own_listeners: own.iter().map(|address| address.parse().unwrap()).collect(),
        is_local: |address| address == IpAddr::from([10, 9, 9, 9]),
    }
}

#[test]
fn c601_each_form_of_an_address_that_does_harm_is_refused() {
    use Refusal::*;
    let table = [
        ("127.0.0.1", Loopback),
        ("127.255.255.254", Loopback),
        ("::1", Loopback),
        ("::ffff:127.0.0.1", Loopback),
        ("::127.0.0.1", Loopback),
        ("::ffff:0:127.0.0.1", Loopback),
        ("64:ff9b::7f00:1", Loopback),
        ("64:ff9b:1::7f00:1", Loopback),
        ("64:ff9b:1:7f00:0:100::", Loopback),
        ("64:ff9b:1:007f:0:1::", Loopback),
        ("64:ff9b:1:0:7f:0:100:0", Loopback),
        ("2002:7f00:1::", Loopback),
        ("2001:0:7f00:1::", Loopback),
        ("2001:0:0a00:1::80ff:fffe", Loopback),
        ("fd00::5efe:127.0.0.1", Loopback),
        ("fd00::200:5efe:127.0.0.1", Loopback),
        ("0.0.0.0", Unspecified),
        ("0.1.2.3", Unspecified),
        ("::", Unspecified),
        ("::ffff:0.0.0.0", Unspecified),
        ("64:ff9b::", Unspecified),
        ("2002::", Unspecified),
        ("169.254.0.1", LinkLocal),
        ("169.254.169.254", LinkLocal),
        ("::ffff:169.254.169.254", LinkLocal),
        ("64:ff9b::a9fe:a9fe", LinkLocal),
        ("64:ff9b:1::a9fe:a9fe", LinkLocal),
        ("2002:a9fe:a9fe::1", LinkLocal),
        ("fe80::1", LinkLocal),
        ("febf::1", LinkLocal),
        ("fec0::1", LinkLocal),
        ("100.100.100.200", Metadata),
        ("168.63.129.16", Metadata),
        ("192.0.0.192", Metadata),
        ("fd00:ec2::254", Metadata),
        ("fd20:ce::254", Metadata),
        ("224.0.0.1", Multicast),
        ("239.255.255.255", Multicast),
        ("ff02::1", Multicast),
        ("192.0.0.8", Reserved),
        ("240.0.0.1", Reserved),
        ("255.255.255.255", Reserved),
        ("100::1", Reserved),
    ];
    for (address, refusal) in table {
        let admitted = guard(&[], &[], &[]).admit(address.parse().unwrap(), 80);
        assert_eq!(admitted, Err(refusal), "{address}");
    }
}

#[test]
fn private_and_public_networks_are_what_validation_is_for() {
    let addresses = [
        "10.0.0.5",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "198.18.0.1",
        "1.1.1.1",
        "192.0.2.2",
        "fd00::2",
        "2606:4700::1111",
        "64:ff9b::a00:5",
        "64:ff9b:1::a00:5",
        "64:ff9b:1:0a00:0:500::",
        "2002:a00:5::",
    ];
    for address in addresses {
        let admitted = guard(&[], &[], &[]).admit(address.parse().unwrap(), 80);
        assert!(admitted.is_ok(), "{address}: {admitted:?}");
    }
}

#[test]
fn what_is_dialled_is_the_canonical_address() {
    let admitted = guard(&[], &[], &[]).admit("::ffff:10.0.0.5".parse().unwrap(), 80);
    assert_eq!(admitted.unwrap().address(), "10.0.0.5:80".parse().unwrap());
}

#[test]
fn an_allow_entry_names_the_form_that_is_refused_and_deny_always_wins() {
    let table: [(&[&str], &[&str], &str, Result<(), Refusal>); 8] = [
        (&["127.0.0.0/8"], &[], "127.0.0.2", Ok(())),
        (&["127.0.0.0/8"], &[], "::ffff:127.0.0.2", Ok(())),
        (&["127.0.0.0/8"], &[], "64:ff9b::7f00:2", Ok(())),
        // Trust in a translator's prefix is none in what it translates to.
        (
            &["64:ff9b::/96", "::/0"],
            &[],
            "64:ff9b::7f00:2",
            Err(Refusal::Loopback),
        ),
        (
            &["127.0.0.0/8"],
            &["127.0.0.3/32"],
            "127.0.0.3",
            Err(Refusal::Denied),
        ),
        (
            &["127.0.0.3/32"],
            &["127.0.0.0/8"],
            "127.0.0.3",
            Err(Refusal::Denied),
        ),
        (&[], &["10.0.0.0/8"], "64:ff9b::a00:5", Err(Refusal::Denied)),
        (&[], &["64:ff9b::/96"], "64:ff9b::a00:5", Err(Refusal::Denied)),
    ];
    for (allow, deny, address, expected) in table {
        let admitted = guard(allow, deny, &[]).admit(address.parse().unwrap(), 80);
        assert_eq!(
            admitted.map(|_| ()),
            expected,
            "{address} with {allow:?} and {deny:?}"
        );
    }
}

#[test]
fn our_own_listeners_are_refused_unless_named_as_a_single_host() {
    let own = Err(Refusal::OwnListener);
    let table: [(&[&str], &str, &str, u16, Result<(), Refusal>); 10] = [
        (&[], "10.0.0.5:443", "10.0.0.5", 443, own),
        (&[], "10.0.0.5:443", "64:ff9b::a00:5", 443, own),
        (&[], "10.0.0.5:443", "10.0.0.5", 80, Ok(())),
        (&[], "10.0.0.5:443", "10.0.0.6", 443, Ok(())),
        (&["10.0.0.0/8"], "10.0.0.5:443", "10.0.0.5", 443, own),
        (&["10.0.0.5/32"], "10.0.0.5:443", "10.0.0.5", 443, Ok(())),
        (&[], "0.0.0.0:443", "10.9.9.9", 443, own),
        (&[], "[::]:443", "10.9.9.9", 443, own),
        (&[], "[::]:443", "10.9.9.8", 443, Ok(())),
        (&["127.0.0.0/8"], "127.0.0.1:80", "127.0.0.1", 80, own),
    ];
    for (allow, listener, address, port, expected) in table {
        let admitted = guard(allow, &[], &[listener]).admit(address.parse().unwrap(), port);
        assert_eq!(admitted.map(|_| ()), expected, "{address}:{port} and {listener}");
    }
}

#[test]
fn the_kernel_knows_which_addresses_are_ours() {
    assert!(is_local("127.0.0.3".parse().unwrap()));
    assert!(!is_local("198.51.100.7".parse().unwrap()));
    assert!(!is_local("240.0.0.1".parse().unwrap()));
    // The source address of any route is ours; without one there is nothing to ask about.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    if socket.connect("198.51.100.7:9").is_ok() {
        assert!(is_local(socket.local_addr().unwrap().ip()));
    }
}
