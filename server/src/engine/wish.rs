//! What one daemon tells the others when somebody invalidates by wish: a message on one channel.
//!
//! Redis itself tells of every key that it had. This tells of those it did not have: entries that
//! live in local tiers only, and immutable ones, which no loss of contact makes doubtful.
//!
//! ```text
//! offset  size
//!      0     1  version, 1
//!      1     8  id of the daemon that sends, big-endian
//!      9     1  what: 0 keys, 1 all, 2 prefix, 3 pattern
//!     10     1  N: bytes of the namespace
//!     11     N  namespace
//!   11+N     …  for keys: each u16 length, big-endian, and the key; else the prefix or pattern
//! ```
//! A message that does not decode comes from a later version, and is counted as a gap by whoever
//! hears it.

use bytes::Bytes;

use crate::{glob::Glob, key::NamespaceName, tier::local::Selection};

const VERSION: u8 = 1;
/// Keys in one message.
pub(super) const KEYS_MAX: usize = 100;

/// A wish somebody had.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) sender: u64,
    pub(super) namespace: NamespaceName,
    pub(super) what: What,
}

/// What is to go.
#[derive(Debug)]
pub(super) enum What {
    Keys(Vec<String>),
    Selected(Selection),
}

impl Wish {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.sender.to_be_bytes());
        let (kind, text) = match &self.what {
            What::Keys(_) => (0, ""),
            What::Selected(Selection::All) => (1, ""),
            What::Selected(Selection::Prefix(prefix)) => (2, prefix.as_str()),
            What::Selected(Selection::Pattern(glob)) => (3, glob.as_str()),
        };
        out.push(kind);
        let namespace = self.namespace.as_str().as_bytes();
        out.push(u8::try_from(namespace.len()).expect("a namespace has at most 63 bytes"));
        out.extend_from_slice(namespace);
        out.extend_from_slice(text.as_bytes());
        if let What::Keys(keys) = &self.what {
            for key in keys {
                let length = u16::try_from(key.len()).expect("a key has at most 1024 bytes");
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(key.as_bytes());
            }
        }
        out.into()
    }

    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        let (head, rest) = message.split_at_checked(11)?;
        if head[0] != VERSION {
            return None;
        }
        let sender = u64::from_be_bytes(head[1..9].try_into().ok()?);
        let (namespace, rest) = rest.split_at_checked(head[10].into())?;
        let namespace = NamespaceName::parse(std::str::from_utf8(namespace).ok()?).ok()?;
        let text = || Some(std::str::from_utf8(rest).ok()?.to_owned());
        let what = match head[9] {
            0 => What::Keys(keys(rest)?),
            1 => What::Selected(Selection::All),
            2 => What::Selected(Selection::Prefix(text()?)),
            3 => What::Selected(Selection::Pattern(Glob::new(&text()?).ok()?)),
            _ => return None,
        };
        Some(Self {
            sender,
            namespace,
            what,
        })
    }
}

fn keys(mut rest: &[u8]) -> Option<Vec<String>> {
    let mut keys = Vec::new();
    while !rest.is_empty() {
        let (length, tail) = rest.split_first_chunk::<2>()?;
        let (key, tail) = tail.split_at_checked(u16::from_be_bytes(*length).into())?;
        keys.push(std::str::from_utf8(key).ok()?.to_owned());
        rest = tail;
    }
    Some(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(what: What) -> Wish {
        Wish {
            sender: 77,
            namespace: NamespaceName::new("n").expect("valid"),
            what,
        }
    }

    #[test]
    fn what_is_sent_is_what_is_heard() {
        let glob = Glob::new("a*[b-d]").expect("valid");
        let all = [
            wish(What::Keys(vec!["k".into(), "ä".repeat(500)])),
            wish(What::Selected(Selection::All)),
            wish(What::Selected(Selection::Prefix("p:".into()))),
            wish(What::Selected(Selection::Pattern(glob))),
        ];
        for wish in all {
            let message = wish.encode();
            let heard = Wish::decode(&message).expect("decodes");
            assert_eq!(format!("{heard:?}"), format!("{wish:?}"));
            for cut in 0..11 {
                assert!(Wish::decode(&message[..cut]).is_none());
            }
        }
    }

    #[test]
    fn other_versions_and_torn_messages_do_not_decode() {
        let good = wish(What::Keys(vec!["key".into()])).encode();
        let mut other = good.to_vec();
        other[0] = 2;
        assert!(Wish::decode(&other).is_none());
        assert!(Wish::decode(&good[..good.len() - 1]).is_none());
    }
}
