use std::io::Cursor;

use proptest::prelude::*;

use super::*;

/// Eleven accounts, as step-ca 0.30.2 with bbolt 1.4.3 has written them.
const REAL: &[u8] = include_bytes!("../../../../tests/samples/step-ca/accounts.bbolt");

const SIZE: usize = 1024;

/// A page of this number, with its elements' heads and what these lead to.
fn page(number: u64, kind: u16, elements: &[([u32; 2], &[u8], &[u8])]) -> Vec<u8> {
    let mut page = Vec::new();
    page.extend(number.to_le_bytes());
    page.extend(kind.to_le_bytes());
    page.extend((elements.len() as u16).to_le_bytes());
    page.extend([0; 4]);
    let mut content = Vec::new();
    for (index, ([first, last], key, value)) in elements.iter().enumerate() {
        let offset = ((elements.len() - index) * ELEMENT + content.len()) as u32;
        match kind {
            // A child's number is in place of the lengths.
            BRANCH => page.extend(
                [offset, key.len() as u32, *first, *last]
                    .map(u32::to_le_bytes)
                    .concat(),
            ),
            _ => {
                let lengths = [*first, offset, key.len() as u32, value.len() as u32];
                page.extend(lengths.map(u32::to_le_bytes).concat());
            }
        }
        content.extend([*key, *value].concat());
    }
    page.extend(content);
    let more = page.len().saturating_sub(1) / SIZE;
    page[12..16].copy_from_slice(&(more as u32).to_le_bytes());
    page.resize((more + 1) * SIZE, 0);
    page
}

fn meta_page(number: u64, root: u64, pages: u64, transaction: u64) -> Vec<u8> {
    let mut content = Vec::new();
    for number in [MAGIC, VERSION, SIZE as u32, 0] {
        content.extend(number.to_le_bytes());
    }
    for number in [root, 0, u64::MAX, pages, transaction] {
        content.extend(number.to_le_bytes());
    }
    content.extend(fnv1a(&content).to_le_bytes());
    let mut page = page(number, 4, &[]);
    page[HEADER..HEADER + content.len()].copy_from_slice(&content);
    page
}

/// A database whose pages from the third on are these; the first of them is the root.
fn database(pages: &[Vec<u8>]) -> Vec<u8> {
    let content = pages.concat();
    let count = 2 + (content.len() / SIZE) as u64;
    [meta_page(0, 2, count, 8), meta_page(1, 2, count, 7), content].concat()
}

fn bucket(root: u64) -> Vec<u8> {
    [root.to_le_bytes(), [0; 8]].concat()
}

fn entry<'e>(key: &'e [u8], value: &'e [u8]) -> ([u32; 2], &'e [u8], &'e [u8]) {
    ([0, 0], key, value)
}

fn child(number: u32) -> ([u32; 2], &'static [u8], &'static [u8]) {
    ([number, 0], b"k", b"")
}

fn entries(file: &[u8], name: &str) -> Result<Option<Vec<(String, usize)>>, BoltError> {
    let mut found = Vec::new();
    let mut bolt = Bolt::open(Cursor::new(file))?;
    let is_there = bolt.entries(name.as_bytes(), |key, value| {
        found.push((String::from_utf8_lossy(key).into_owned(), value.len()));
    })?;
    Ok(is_there.then_some(found))
}

fn fault(file: &[u8]) -> String {
    entries(file, "b").unwrap_err().to_string()
}

#[test]
fn the_tables_of_a_real_step_ca_are_read_in_order_whatever_their_form() {
    let accounts = entries(REAL, "acme_accounts").unwrap().unwrap();
    assert_eq!(accounts.len(), 11);
    assert!(
        accounts.is_sorted()
            && accounts
                .iter()
                .all(|(id, length)| id.len() == 32 && *length > 300)
    );
    let certificates = entries(REAL, "acme_certs").unwrap().unwrap();
    assert_eq!(certificates.len(), 2);
    // An inline bucket, and none.
    assert_eq!(
        entries(REAL, "acme_external_account_keys").unwrap(),
        Some(Vec::new())
    );
    assert_eq!(entries(REAL, "acme_account").unwrap(), None);
}

#[test]
fn branches_long_pages_inline_buckets_and_buckets_in_buckets_are_read() {
    let long = vec![7; 3000];
    let inline = [bucket(0), page(0, LEAF, &[entry(b"i", b"1")])].concat();
    let root = page(
        2,
        LEAF,
        &[
            ([IS_BUCKET, 0], b"b", &bucket(3)),
            ([IS_BUCKET, 0], b"inline", &inline),
            entry(b"no bucket", b"x"),
        ],
    );
    assert_eq!(root.len(), 2 * SIZE, "of two pages");
    let file = database(&[
        root,
        // Number 3 is the second half of the root: the tree of b is at 4.
        page(4, BRANCH, &[child(5), child(8)]),
        page(5, LEAF, &[entry(b"a", b"1"), entry(b"c", &long)]),
        page(
            8,
            LEAF,
            &[([IS_BUCKET, 0], b"nested", &bucket(4)), entry(b"z", b"")],
        ),
    ]);
    let file = {
        let mut file = file;
        let at = file.windows(16).position(|bytes| bytes == bucket(3)).unwrap();
        file[at] = 4;
        file
    };
    let expected = [("a", 1), ("c", 3000), ("z", 0)].map(|(key, length)| (key.to_owned(), length));
    assert_eq!(entries(&file, "b").unwrap().unwrap(), expected);
    assert_eq!(entries(&file, "inline").unwrap().unwrap(), [("i".to_owned(), 1)]);
    assert_eq!(entries(&file, "no bucket").unwrap(), None);
    assert_eq!(entries(&file, "nested").unwrap(), None);
}

#[test]
fn the_newer_meta_page_counts_and_the_other_one_if_it_is_torn() {
    let old = page(2, LEAF, &[([IS_BUCKET, 0], b"old", &bucket(0))]);
    let mut new = old.clone();
    new[..8].copy_from_slice(&3_u64.to_le_bytes());
    let name = new.windows(3).position(|bytes| bytes == b"old").unwrap();
    new[name..name + 3].copy_from_slice(b"new");
    let with = |first: Vec<u8>, second: Vec<u8>| [first, second, old.clone(), new.clone()].concat();
    let exists = |file: &[u8], name: &str| {
        let root = Bolt::open(Cursor::new(file)).unwrap().meta.root;
        root == if name == "old" { 2 } else { 3 }
    };
    assert!(exists(&with(meta_page(0, 2, 4, 8), meta_page(1, 3, 4, 9)), "new"));
    assert!(exists(
        &with(meta_page(0, 3, 4, 10), meta_page(1, 2, 4, 9)),
        "new"
    ));
    let mut torn = meta_page(1, 3, 4, 9);
    torn[HEADER + 20] ^= 1;
    assert!(exists(&with(meta_page(0, 2, 4, 8), torn.clone()), "old"));
    // Then the second page has to be found without the first one.
    assert!(exists(&with(torn.clone(), meta_page(1, 3, 4, 9)), "new"));
    assert!(fault(&with(torn.clone(), torn)).contains("neither of its two meta pages"));
}

#[test]
fn each_damage_has_its_own_sentence() {
    let leaf = |more: &[u8]| {
        [
            page(2, LEAF, &[([IS_BUCKET, 0], b"b", &bucket(3))]),
            more.to_vec(),
        ]
        .concat()
    };
    let below = |third: Vec<u8>| fault(&database(&[leaf(&third)]));
    assert_eq!(fault(b""), "is empty");
    assert_eq!(fault(b"SQLite format 3\0"), "is no bbolt database");
    assert_eq!(fault(&[0; 9000]), "is no bbolt database");
    let mut other = database(&[leaf(&[])]);
    for at in [HEADER + 4, SIZE + HEADER + 4] {
        other[at] = 3;
    }
    assert!(fault(&other).contains("file version 3"));
    let whole = database(&[leaf(&page(3, LEAF, &[entry(b"a", b"1")]))]);
    assert!(fault(&whole[..whole.len() - 1]).contains("cut off: it has 4095 bytes and should have 4096"));
    assert!(below(Vec::new()).contains("page 3 is referred to, and can not be"));
    assert!(below(page(4, LEAF, &[])).contains("page 3 says that it is another page"));
    assert!(below(page(3, 16, &[])).contains("page 3 is in a tree, but neither branch nor leaf"));
    assert!(below(page(3, BRANCH, &[child(3)])).contains("page 3 is in its tree more than once"));
    assert!(below(page(3, BRANCH, &[child(0)])).contains("page 0 is referred to"));
    let mut longer = page(3, LEAF, &[]);
    longer[12] = 1;
    assert!(below(longer).contains("page 3 goes on beyond the end"));
    let mut more = page(3, LEAF, &[entry(b"a", b"1")]);
    more[10..12].copy_from_slice(&u16::MAX.to_le_bytes());
    assert!(below(more).contains("page 3 says that it has more elements than it can"));
    let mut branch = page(3, BRANCH, &[]);
    branch[10..12].copy_from_slice(&100_u16.to_le_bytes());
    assert!(below(branch.clone()).contains("page 3 says that it has more elements than it can"));
    branch[10..12].copy_from_slice(&20_u16.to_le_bytes());
    assert!(below(branch).contains("page 0 is referred to"));
    for (at, value) in [(20, u32::MAX), (24, 2000), (28, 2000), (28, u32::MAX)] {
        let mut wrong = page(3, LEAF, &[entry(b"a", b"1")]);
        wrong[at..at + 4].copy_from_slice(&value.to_le_bytes());
        assert!(below(wrong).contains("page 3 has an entry that does not lie within it"));
    }
    let long = vec![b'k'; LONGEST_KEY];
    let longer = [&long[..], b"k"].concat();
    let beside = |key: &[u8]| {
        let root = page(2, LEAF, &[([IS_BUCKET, 0], b"b", &bucket(3))]);
        entries(&database(&[root, page(3, LEAF, &[entry(key, b"1")])]), "b")
    };
    assert_eq!(beside(&long).unwrap().unwrap().len(), 1);
    let why = beside(&longer).unwrap_err().to_string();
    assert!(
        why.contains("page 3 has a key that is longer than 32 KiB"),
        "{why}"
    );
    // Two entries that fit, and are in one place.
    let mut twice = page(3, LEAF, &[entry(b"a", &[1; 700]), entry(b"b", b"1")]);
    let (first, second) = (HEADER, HEADER + ELEMENT);
    let offset = u32_at(&twice, first + 4).unwrap() - ELEMENT as u32;
    twice[second + 4..second + 8].copy_from_slice(&offset.to_le_bytes());
    twice.copy_within(first + 8..first + 16, second + 8);
    assert!(below(twice).contains("page 3 has entries that lie in each other"));
    let none = page(2, LEAF, &[([IS_BUCKET, 0], b"b", b"short")]);
    assert!(fault(&database(&[none])).contains("page 2 has a bucket in it that is none"));
    let inline = [bucket(0), page(0, BRANCH, &[child(2)])].concat();
    let inline = page(2, LEAF, &[([IS_BUCKET, 0], b"b", &inline)]);
    assert!(fault(&database(&[inline])).contains("page 2 has a bucket in it that is none"));
}

#[test]
fn a_tree_that_seems_endless_ends() {
    // Each page has the next one twice: the number of ways doubles with each.
    let mut pages = vec![page(2, BRANCH, &[child(3), child(3)])];
    pages.extend((3..40).map(|number| page(number, BRANCH, &[child(number as u32 + 1); 2])));
    pages.push(page(40, LEAF, &[]));
    assert!(fault(&database(&pages)).contains("more than once"));
    // Each goes on over all that follow, so that together they are far longer than the file.
    let mut over: Vec<_> = (2..40)
        .map(|number| page(number, BRANCH, &[child(number as u32 + 1)]))
        .collect();
    over.push(page(40, LEAF, &[]));
    for (index, page) in over.iter_mut().enumerate() {
        page[12..16].copy_from_slice(&(38 - index as u32).to_le_bytes());
    }
    assert!(fault(&database(&over)).contains("page 3 is in its tree more than once"));
    let mut deep: Vec<_> = (2..60)
        .map(|number| page(number, BRANCH, &[child(number as u32 + 1)]))
        .collect();
    deep.push(page(60, LEAF, &[]));
    assert!(fault(&database(&deep)).contains("page 51 is deeper in its tree"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_damaged_file_is_read_or_refused(
        flips in prop::collection::vec((0..REAL.len(), any::<u8>()), 1..20),
        heads in prop::collection::vec((2..REAL.len() / 4096, 0..64_usize, any::<u8>()), 0..8),
        length in prop::option::of(0..REAL.len()),
    ) {
        let mut file = REAL.to_vec();
        for (at, byte) in flips {
            file[at] = byte;
        }
        for (page, at, byte) in heads {
            file[page * 4096 + at] = byte;
        }
        file.truncate(length.unwrap_or(usize::MAX));
        let read = entries(&file, "acme_accounts");
        if length.is_some() {
            prop_assert!(read.is_err() || length >= Some(REAL.len() / 2));
        }
    }
}
