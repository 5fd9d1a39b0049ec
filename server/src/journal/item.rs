//! How an item is written.
//!
//! ```text
//! 0      1        17       19           19+n
//! | kind | stamp  | n      | namespace  | text to the end |
//!   u8     16       u16 BE   n bytes      key, prefix or pattern; empty for all
//! ```
//! Kinds: 1 remove, 2 publish (stamp of zeros), 3 all, 4 all because the journal was full,
//! 5 prefix, 6 pattern. Checksums are RocksDB's. What does not decode is damage.

use crate::{
    error::{Error, Kind, Result},
    glob::Glob,
    stamp::Stamp,
    tier::local::Selection,
};

use super::Deferred;

const REMOVE: u8 = 1;
const PUBLISH: u8 = 2;
const ALL: u8 = 3;
const COLLAPSED: u8 = 4;
const PREFIX: u8 = 5;
const PATTERN: u8 = 6;
const STAMP_END: usize = 1 + Stamp::LEN;
const HEAD: usize = STAMP_END + 2;

/// An item in parts.
pub(super) struct Item<'a> {
    pub(super) namespace: &'a str,
    pub(super) what: What<'a>,
}

/// What is to be done in the namespace.
#[derive(Clone, Copy)]
pub(super) enum What<'a> {
    /// Something is to be removed; `text` is empty for everything.
    Removal {
        of: Removed,
        text: &'a str,
        stamp: Stamp,
    },
    /// A key is to be published.
    Publication { key: &'a str },
}

/// The sorts of removals. Two of one sort and text are the same removal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Removed {
    Key,
    All,
    /// Everything, in place of items for which there was no room.
    Collapsed,
    Prefix,
    Pattern,
}

impl<'a> Item<'a> {
    pub(super) fn of(deferred: &'a Deferred) -> Self {
        let (namespace, what) = match deferred {
            Deferred::Publish { namespace, key } => (namespace, What::Publication { key }),
            Deferred::Remove {
                namespace,
                key: text,
                stamp,
            } => {
                let (of, stamp) = (Removed::Key, *stamp);
                (namespace, What::Removal { of, text, stamp })
            }
            Deferred::RemoveSelected {
                namespace,
                selection,
                stamp,
            } => {
                let (of, text) = match selection {
                    Selection::All => (Removed::All, ""),
                    Selection::Prefix(prefix) => (Removed::Prefix, prefix.as_str()),
                    Selection::Pattern(glob) => (Removed::Pattern, glob.as_str()),
                };
                let stamp = *stamp;
                (namespace, What::Removal { of, text, stamp })
            }
        };
        Self { namespace, what }
    }

    /// `Invalid` when the namespace is longer than any can be.
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let length = u16::try_from(self.namespace.len())
            .map_err(|_| Error::invalid("journal: the namespace's name is too long"))?;
        let (kind, stamp, text) = match self.what {
            What::Publication { key } => (PUBLISH, &[0; Stamp::LEN], key),
            What::Removal {
                of,
                text,
                ref stamp,
            } => (kind(of), stamp.as_bytes(), text),
        };
        let mut bytes = Vec::with_capacity(HEAD + self.namespace.len() + text.len());
        bytes.push(kind);
        bytes.extend_from_slice(stamp);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(self.namespace.as_bytes());
        bytes.extend_from_slice(text.as_bytes());
        Ok(bytes)
    }

    /// `Corrupt` for what [`Item::encode`] never makes.
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self> {
        Self::parse(bytes).ok_or_else(damaged)
    }

    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(HEAD)?;
        let length = u16::from_be_bytes([head[STAMP_END], head[STAMP_END + 1]]);
        let (namespace, text) = rest.split_at_checked(length.into())?;
        let namespace = std::str::from_utf8(namespace).ok()?;
        let text = std::str::from_utf8(text).ok()?;
        let stamp = Stamp::from_bytes(head[1..STAMP_END].try_into().ok()?);
        let of = match head[0] {
            PUBLISH => {
                let what = What::Publication { key: text };
                return Some(Self { namespace, what });
            }
            REMOVE => Removed::Key,
            ALL => Removed::All,
            COLLAPSED => Removed::Collapsed,
            PREFIX => Removed::Prefix,
            PATTERN => Removed::Pattern,
            _ => return None,
        };
        let what = What::Removal { of, text, stamp };
        Some(Self { namespace, what })
    }

    /// The item as the caller gave it. `Corrupt` when its pattern is none.
    pub(super) fn into_deferred(self) -> Result<Deferred> {
        let namespace = self.namespace.to_owned();
        Ok(match self.what {
            What::Publication { key } => {
                let key = key.to_owned();
                Deferred::Publish { namespace, key }
            }
            What::Removal {
                of: Removed::Key,
                text,
                stamp,
            } => Deferred::Remove {
                namespace,
                key: text.to_owned(),
                stamp,
            },
            What::Removal { of, text, stamp } => {
                let selection = match of {
                    Removed::Prefix => Selection::Prefix(text.to_owned()),
                    Removed::Pattern => Selection::Pattern(Glob::new(text).map_err(|_| damaged())?),
                    _ => Selection::All,
                };
                Deferred::RemoveSelected {
                    namespace,
                    selection,
                    stamp,
                }
            }
        })
    }
}

fn kind(of: Removed) -> u8 {
    match of {
        Removed::Key => REMOVE,
        Removed::All => ALL,
        Removed::Collapsed => COLLAPSED,
        Removed::Prefix => PREFIX,
        Removed::Pattern => PATTERN,
    }
}

fn damaged() -> Error {
    Error::new(Kind::Corrupt, "journal: an item does not decode")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(time: u64) -> Stamp {
        let mut bytes = [7; Stamp::LEN];
        bytes[..8].copy_from_slice(&time.to_be_bytes());
        Stamp::from_bytes(bytes)
    }

    #[test]
    fn every_sort_of_item_is_read_as_it_was_written() {
        let namespace = || "a.name-space".to_owned();
        let selected = |selection| Deferred::RemoveSelected {
            namespace: namespace(),
            selection,
            stamp: stamp(5),
        };
        let items = [
            Deferred::Remove {
                namespace: namespace(),
                key: "k\0ü".repeat(100),
                stamp: stamp(u64::MAX),
            },
            Deferred::Publish {
                namespace: namespace(),
                key: "k".into(),
            },
            selected(Selection::All),
            selected(Selection::Prefix("user:".into())),
            selected(Selection::Pattern(Glob::new("us?r:[a-c]*").expect("good"))),
        ];
        for item in items {
            let bytes = Item::of(&item).encode().expect("short enough");
            let read = Item::decode(&bytes).expect("decodes").into_deferred();
            assert_eq!(
                format!("{:?}", read.expect("is whole")),
                format!("{item:?}")
            );
        }
    }

    #[test]
    fn what_is_no_item_is_damage() {
        let good = Item {
            namespace: "n",
            what: What::Publication { key: "k" },
        };
        let good = good.encode().expect("short");
        let mut unknown = good.clone();
        unknown[0] = 99;
        let mut long = good.clone();
        long[STAMP_END] = 1;
        let mut text = good.clone();
        *text.last_mut().expect("not empty") = 0xff;
        for bytes in [&good[..HEAD - 1], &[], &unknown, &long, &text] {
            let error = Item::decode(bytes).err().expect("is refused");
            assert_eq!(error.kind(), Kind::Corrupt);
        }
    }
}
