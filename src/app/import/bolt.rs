//! Reads bbolt's file format (go.etcd.io/bbolt 1.3 and 1.4, file version 2), page by page and without writing: two meta
//! pages, of which the newer good one counts, and from there trees of pages.
//!
//! Why no crate does it: bbolt-rs 1.3 maps the file into memory with unsafe code, so that a damaged file, or one that is
//! cut off meanwhile, ends the process; bolt-lite 0.1 takes meta pages without looking at their checksums, looks a key up
//! in the wrong branch, and panics on a damaged page; jammdb 0.11 reads only files of its own.
//!
//! Only the meta pages have checksums. Of all others it is looked whether they are the page that was asked for, and
//! whether everything in them lies within them.

use std::io::{self, Read, Seek, SeekFrom};

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// What every page begins with: its number, its kind, how many elements it has, how many pages it goes on for.
const HEADER: usize = 16;

/// A meta page's content, without the checksum that follows it.
const META: usize = 56;

/// What an element of a branch or leaf page takes, without its key and value.
const ELEMENT: usize = 16;

/// What the record of a bucket begins with: its root page, and a counter.
const BUCKET: usize = 16;

const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const IS_BUCKET: u32 = 1;

/// bbolt takes the page size of the machine that makes the file.
const PAGE_SIZES: [u64; 7] = [1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16];

/// The longest page that is read, in bytes.
const MAX_PAGE: u64 = 16 << 20;

/// The longest key that bbolt takes.
const LONGEST_KEY: usize = 32768;

/// With two children a page, which is the fewest, so many levels are more than a disk holds.
const MAX_DEPTH: u32 = 48;

/// Why a file can not be read.
#[derive(Debug, thiserror::Error)]
pub enum BoltError {
    /// The system does not give it.
    #[error("can not be read: {0}")]
    Unreadable(#[from] io::Error),
    /// There is nothing in it.
    #[error("is empty")]
    Empty,
    /// It is something else.
    #[error("is no bbolt database")]
    Foreign,
    /// Another version of bbolt has made it.
    #[error("is a bbolt database of file version {0}; only version {VERSION} can be read")]
    Version(u32),
    /// Neither meta page is whole.
    #[error("is a damaged bbolt database: neither of its two meta pages has the right checksum")]
    Meta,
    /// Its end is missing.
    #[error("is a bbolt database that is cut off: it has {actual} bytes and should have {expected} or more")]
    CutOff {
        /// How long it is.
        actual: u64,
        /// How long it should be at least.
        expected: u64,
    },
    /// A page is not what it should be.
    #[error("is a damaged bbolt database: page {page} {what}")]
    Damaged {
        /// The page's number.
        page: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// An open database.
#[derive(Debug)]
pub struct Bolt<F> {
    file: F,
    meta: Meta,
}

/// What a meta page says.
#[derive(Debug, Clone, Copy)]
struct Meta {
    page_size: u64,
    /// The root page of the bucket that holds all others.
    root: u64,
    /// The number of pages that are in use or free.
    pages: u64,
    transaction: u64,
}

/// Where a bucket's entries are.
enum Place {
    /// In the tree below this page.
    Tree(u64),
    /// In the record of the bucket itself, which stands in this page.
    Inline { page: u64, bytes: Vec<u8> },
}

/// A way through a tree.
struct Walk {
    /// How many more pages there can be: each page of a file is in a tree once.
    left: u64,
}

/// What a visitor is shown.
struct Entry<'p> {
    is_bucket: bool,
    key: &'p [u8],
    value: &'p [u8],
}

impl<F: Read + Seek> Bolt<F> {
    /// The database in a file that nobody writes to.
    ///
    /// # Errors
    ///
    /// What is wrong with the file.
    pub fn open(mut file: F) -> Result<Self, BoltError> {
        let length = file.seek(SeekFrom::End(0))?;
        if length == 0 {
            return Err(BoltError::Empty);
        }
        let meta = newest_meta(&mut file)?;
        // The number of pages comes from a meta page with the right checksum, but anybody can make that.
        let expected = meta.pages.saturating_mul(meta.page_size);
        match length < expected {
            true => Err(BoltError::CutOff {
                actual: length,
                expected,
            }),
            false => Ok(Self { file, meta }),
        }
    }

    /// Shows all entries of a bucket that is in no other one, in the order of their keys; but not the buckets in it. Tells
    /// whether there is such a bucket.
    ///
    /// # Errors
    ///
    /// What is wrong with the file.
    pub fn entries(&mut self, bucket: &[u8], mut visit: impl FnMut(&[u8], &[u8])) -> Result<bool, BoltError> {
        let mut found = None;
        let root = self.meta.root;
        self.walk(root, &mut |page, entry| {
            if entry.is_bucket && entry.key == bucket {
                found = Some(place(page, entry.value)?);
            }
            Ok(())
        })?;
        let mut show = |_, entry: &Entry<'_>| {
            if !entry.is_bucket {
                visit(entry.key, entry.value);
            }
            Ok(())
        };
        match found {
            None => return Ok(false),
            Some(Place::Tree(root)) => self.walk(root, &mut show)?,
            Some(Place::Inline { page, bytes }) => {
                let (kind, count) = kind(page, &bytes)?;
                if kind != LEAF {
                    return Err(damaged(page, "has a bucket in it that is none"));
                }
                leaf(page, &bytes, count, &mut show)?;
            }
        }
        Ok(true)
    }

    fn walk(
        &mut self,
        root: u64,
        visit: &mut impl FnMut(u64, &Entry<'_>) -> Result<(), BoltError>,
    ) -> Result<(), BoltError> {
        let mut walk = Walk {
            left: self.meta.pages,
        };
        self.walk_below(root, 0, &mut walk, visit)
    }

    fn walk_below(
        &mut self,
        number: u64,
        depth: u32,
        walk: &mut Walk,
        visit: &mut impl FnMut(u64, &Entry<'_>) -> Result<(), BoltError>,
    ) -> Result<(), BoltError> {
        if depth > MAX_DEPTH {
            return Err(damaged(number, "is deeper in its tree than a tree can be"));
        }
        let length = self.length(number)?;
        let left = walk.left.checked_sub(length / self.meta.page_size);
        walk.left = left.ok_or_else(|| damaged(number, "is in its tree more than once"))?;
        let page = self.read(number.saturating_mul(self.meta.page_size), length)?;
        let children = match kind(number, &page)? {
            (LEAF, count) => return leaf(number, &page, count, visit),
            (BRANCH, count) => (0..usize::from(count)).map(|index| Ok(element(number, &page, index)?.2)),
            _ => return Err(damaged(number, "is in a tree, but neither branch nor leaf")),
        };
        let children = children.collect::<Result<Vec<u64>, BoltError>>()?;
        // It may be long, and so may each page below it.
        drop(page);
        for child in children {
            self.walk_below(child, depth + 1, walk, visit)?;
        }
        Ok(())
    }

    /// How many bytes the page of this number has, with those that it goes on for.
    fn length(&mut self, number: u64) -> Result<u64, BoltError> {
        let Meta { page_size, pages, .. } = self.meta;
        if !(2..pages).contains(&number) {
            return Err(damaged(number, "is referred to, and can not be"));
        }
        let head: [u8; HEADER] = array(&self.read(number.saturating_mul(page_size), HEADER as u64)?, 0)
            .ok_or_else(|| damaged(number, "has no header"))?;
        if u64_at(&head, 0) != Some(number) {
            return Err(damaged(number, "says that it is another page"));
        }
        let more = u64::from(u32_at(&head, 12).unwrap_or_default());
        if more >= pages - number {
            return Err(damaged(number, "goes on beyond the end of the file"));
        }
        let length = (more + 1).saturating_mul(page_size);
        match length > MAX_PAGE {
            true => Err(damaged(number, "is longer than 16 MiB")),
            false => Ok(length),
        }
    }

    fn read(&mut self, at: u64, length: u64) -> Result<Vec<u8>, BoltError> {
        read(&mut self.file, at, length)
    }
}

/// The newer of the meta pages that are whole. They are the first two pages, and how long a page is, they themselves say.
fn newest_meta<F: Read + Seek>(file: &mut F) -> Result<Meta, BoltError> {
    let mut fault = BoltError::Foreign;
    let mut newest: Option<Meta> = None;
    for at in [0].into_iter().chain(PAGE_SIZES) {
        // The file may end before, if it is none or is cut off.
        let bytes = match read(file, at, (HEADER + META + 8) as u64) {
            Ok(bytes) => bytes,
            Err(BoltError::Unreadable(error)) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            Err(error) => return Err(error),
        };
        match meta(bytes.get(HEADER..).unwrap_or_default()) {
            Ok(meta) if at == 0 || at == meta.page_size => {
                newest = newest
                    .filter(|newest| newest.transaction >= meta.transaction)
                    .or(Some(meta));
            }
            // An earlier content of a page that has other content now, or a database within a value.
            Ok(_) | Err(BoltError::Foreign) => {}
            Err(error) => fault = error,
        }
    }
    newest.ok_or(fault)
}

fn meta(bytes: &[u8]) -> Result<Meta, BoltError> {
    if u32_at(bytes, 0) != Some(MAGIC) {
        return Err(BoltError::Foreign);
    }
    let version = u32_at(bytes, 4).unwrap_or_default();
    if version != VERSION {
        return Err(BoltError::Version(version));
    }
    let content = bytes.get(..META).unwrap_or_default();
    if u64_at(bytes, META) != Some(fnv1a(content)) {
        return Err(BoltError::Meta);
    }
    let number = |at| u64_at(bytes, at).unwrap_or_default();
    let page_size = u64::from(u32_at(bytes, 8).unwrap_or_default());
    match PAGE_SIZES.contains(&page_size) {
        true => Ok(Meta {
            page_size,
            root: number(16),
            pages: number(40),
            transaction: number(48),
        }),
        false => Err(damaged(0, "says that pages have a size that none can have")),
    }
}

/// FNV-1a with 64 bits, as in Go's hash/fnv.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn read<F: Read + Seek>(file: &mut F, at: u64, length: u64) -> Result<Vec<u8>, BoltError> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    match bytes.len() as u64 == length {
        true => Ok(bytes),
        false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}

fn kind(number: u64, page: &[u8]) -> Result<(u16, u16), BoltError> {
    let kind = array(page, 8).map(u16::from_le_bytes);
    let count = array(page, 10).map(u16::from_le_bytes);
    kind.zip(count).ok_or_else(|| damaged(number, "has no header"))
}

/// The numbers of an element of a page, and where they stand. A branch has the child's number last, where a leaf has
/// the lengths of key and value.
fn element(number: u64, page: &[u8], index: usize) -> Result<(usize, [u32; 2], u64), BoltError> {
    let at = HEADER + index * ELEMENT;
    let numbers = (u32_at(page, at), u32_at(page, at + 4), u64_at(page, at + 8));
    match numbers {
        (Some(first), Some(second), Some(last)) => Ok((at, [first, second], last)),
        _ => Err(damaged(number, "says that it has more elements than it can")),
    }
}

fn leaf(
    number: u64,
    page: &[u8],
    count: u16,
    visit: &mut impl FnMut(u64, &Entry<'_>) -> Result<(), BoltError>,
) -> Result<(), BoltError> {
    let mut room = page.len();
    for index in 0..usize::from(count) {
        let (at, [flags, offset], lengths) = element(number, page, index)?;
        let key_length = (lengths & u64::from(u32::MAX)) as usize;
        let value_length = (lengths >> 32) as usize;
        if key_length > LONGEST_KEY {
            return Err(damaged(number, "has a key that is longer than 32 KiB"));
        }
        let content = at.checked_add(offset as usize).and_then(|at| page.get(at..));
        let content = content.and_then(|content| content.split_at_checked(key_length));
        let entry = content.and_then(|(key, rest)| {
            Some(Entry {
                is_bucket: flags & IS_BUCKET != 0,
                key,
                value: rest.get(..value_length)?,
            })
        });
        let entry = entry.ok_or_else(|| damaged(number, "has an entry that does not lie within it"))?;
        // Else a small file could have entries without end.
        let left = room.checked_sub(ELEMENT + key_length + value_length);
        room = left.ok_or_else(|| damaged(number, "has entries that lie in each other"))?;
        visit(number, &entry)?;
    }
    Ok(())
}

fn place(page: u64, record: &[u8]) -> Result<Place, BoltError> {
    match (u64_at(record, 0), record.get(BUCKET..)) {
        (Some(0), Some(inline)) => Ok(Place::Inline {
            page,
            bytes: inline.to_vec(),
        }),
        (Some(root), Some(_)) => Ok(Place::Tree(root)),
        _ => Err(damaged(page, "has a bucket in it that is none")),
    }
}

fn damaged(page: u64, what: &'static str) -> BoltError {
    BoltError::Damaged { page, what }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// bbolt writes numbers as its machine does; all that Go programs of this kind are shipped for are little-endian.
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests;
