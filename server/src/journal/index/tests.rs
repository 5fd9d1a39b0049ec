//! The rules of the index, one by one, and all of them against a plain list of what was promised.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// An index with what a store would hold of it.
struct Book {
    index: Index,
    items: BTreeMap<u64, Vec<u8>>,
}

fn stamp(time: u64) -> Stamp {
    let mut bytes = [0; Stamp::LEN];
    bytes[..8].copy_from_slice(&time.to_be_bytes());
    Stamp::from_bytes(bytes)
}

fn time(stamp: &Stamp) -> u64 {
    u64::from_be_bytes(stamp.as_bytes()[..8].try_into().expect("8 bytes"))
}

fn removal(of: Removed, text: &str, at: u64) -> What<'_> {
    let stamp = stamp(at);
    What::Removal { of, text, stamp }
}

fn key(text: &str, at: u64) -> What<'_> {
    removal(Removed::Key, text, at)
}

fn all(at: u64) -> What<'static> {
    removal(Removed::All, "", at)
}

impl Book {
    fn new(limit: usize) -> Self {
        Self {
            index: Index::new(limit, 1),
            items: BTreeMap::new(),
        }
    }

    fn add(&mut self, namespace: &str, what: What<'_>) -> Result<()> {
        let mut edits = Edits::default();
        let result = self.index.add(&Item { namespace, what }, &mut edits);
        self.apply(edits);
        result
    }

    fn done(&mut self, sequence: u64) {
        let Some(item) = self.items.get(&sequence).cloned() else {
            return;
        };
        let mut edits = Edits::default();
        let item = Item::decode(&item).expect("decodes");
        self.index.forget(sequence, &item, &mut edits);
        self.apply(edits);
    }

    fn apply(&mut self, edits: Edits) {
        for (sequence, item) in edits.puts {
            assert!(
                self.items.insert(sequence, item).is_none(),
                "no number twice"
            );
        }
        for sequence in edits.deletes {
            assert!(self.items.remove(&sequence).is_some(), "only what is there");
        }
        assert_eq!(self.index.depth(), self.items.len());
    }

    /// As after a restart.
    fn reopen(&mut self) {
        let mut index = Index::new(self.index.limit, self.index.next_sequence());
        for (sequence, item) in &self.items {
            index.restore(*sequence, &Item::decode(item).expect("decodes"));
        }
        assert_eq!(index.depth(), self.items.len());
        self.index = index;
    }

    /// Each item in a word, oldest first.
    fn words(&self) -> Vec<String> {
        let word = |bytes: &Vec<u8>| {
            let item = Item::decode(bytes).expect("decodes");
            match item.what {
                What::Publication { key } => format!("{} publish {key}", item.namespace),
                What::Removal { of, text, stamp } => {
                    format!("{} {of:?} {text} {}", item.namespace, time(&stamp))
                }
            }
        };
        self.items.values().map(word).collect()
    }
}

#[test]
fn the_same_key_again_takes_the_place_of_the_first_and_the_newer_stamp_stays() {
    let mut book = Book::new(10);
    book.add("n", key("a", 5)).expect("room");
    book.add("n", key("b", 6)).expect("room");
    book.add("n", key("a", 7)).expect("room");
    assert_eq!(book.words(), ["n Key b 6", "n Key a 7"]);
    book.add("n", key("b", 1)).expect("room");
    assert_eq!(book.words(), ["n Key a 7", "n Key b 6"]);
    book.add("m", key("a", 1)).expect("room");
    book.add("n", removal(Removed::Prefix, "a", 2))
        .expect("room");
    book.add("n", removal(Removed::Pattern, "a", 3))
        .expect("room");
    book.add("n", removal(Removed::Prefix, "a", 4))
        .expect("room");
    let words = [
        "n Key a 7",
        "n Key b 6",
        "m Key a 1",
        "n Pattern a 3",
        "n Prefix a 4",
    ];
    assert_eq!(book.words(), words);
}

#[test]
fn what_was_replaced_meanwhile_is_not_done() {
    let mut book = Book::new(10);
    book.add("n", key("a", 5)).expect("room");
    let first = *book.items.keys().next().expect("one");
    book.add("n", key("a", 5)).expect("room");
    book.done(first);
    assert_eq!(book.words(), ["n Key a 5"]);
    let second = *book.items.keys().next().expect("one");
    assert!(second > first);
    book.done(second);
    book.done(second);
    assert!(book.words().is_empty() && book.index.namespaces.is_empty());
}

#[test]
fn a_removal_ends_a_publication_and_a_publication_comes_after_a_removal() {
    let mut book = Book::new(10);
    let publication = What::Publication { key: "a" };
    book.add("n", publication).expect("room");
    book.add("n", key("a", 5)).expect("room");
    assert_eq!(book.words(), ["n Key a 5"]);
    book.add("n", publication).expect("room");
    book.add("n", publication).expect("room");
    assert_eq!(book.words(), ["n Key a 5", "n publish a"]);
    book.add("n", all(6)).expect("room");
    assert_eq!(book.words(), ["n All  6"]);
    assert_eq!(book.index.dropped, 0);
}

#[test]
fn a_removal_of_all_takes_in_what_is_not_newer() {
    let mut book = Book::new(10);
    book.add("n", key("old", 5)).expect("room");
    book.add("n", key("same", 6)).expect("room");
    book.add("n", key("new", 7)).expect("room");
    book.add("n", removal(Removed::Prefix, "p", 1))
        .expect("room");
    book.add("m", key("old", 5)).expect("room");
    book.add("n", all(6)).expect("room");
    assert_eq!(book.words(), ["n Key new 7", "m Key old 5", "n All  6"]);
    book.add("n", all(2)).expect("room");
    book.add("n", key("later", 8)).expect("room");
    let words = ["n Key new 7", "m Key old 5", "n All  6", "n Key later 8"];
    assert_eq!(book.words(), words);
}

#[test]
fn at_the_limit_the_largest_namespace_collapses_and_takes_in_the_rest() {
    let mut book = Book::new(5);
    book.add("small", key("a", 1)).expect("room");
    for at in 2..=4 {
        book.add("large", key(&at.to_string(), at)).expect("room");
    }
    book.add("large", What::Publication { key: "p" })
        .expect("room");
    book.add("small", key("b", 6)).expect("room");
    assert_eq!(
        book.words(),
        ["small Key a 1", "large Collapsed  4", "small Key b 6"]
    );
    assert_eq!((book.index.dropped, book.index.collapses), (1, 1));

    for reopened in [false, true] {
        if reopened {
            book.reopen();
        }
        book.add("large", key("x", 9)).expect("taken in");
        book.add("large", all(3)).expect("taken in");
        book.add("large", removal(Removed::Prefix, "x", 8))
            .expect("taken in");
        book.add("large", What::Publication { key: "p" })
            .expect("dropped");
        assert_eq!(
            book.words(),
            ["small Key a 1", "small Key b 6", "large Collapsed  9"]
        );
    }

    let collapsed = *book.items.keys().last().expect("the newest");
    book.done(collapsed);
    book.add("large", key("x", 10)).expect("room");
    assert_eq!(
        book.words(),
        ["small Key a 1", "small Key b 6", "large Key x 10"]
    );
}

#[test]
fn publications_make_room_for_removals_and_not_for_each_other() {
    let mut book = Book::new(3);
    for name in ["a", "b", "c", "d"] {
        book.add("n", What::Publication { key: name })
            .expect("at most dropped");
    }
    assert_eq!(book.words(), ["n publish a", "n publish b", "n publish c"]);
    assert_eq!(book.index.dropped, 1);
    book.add("m", key("k", 1)).expect("room is made");
    assert_eq!(book.words(), ["m Key k 1"]);
    assert_eq!(book.index.dropped, 4);
}

#[test]
fn one_item_in_each_of_too_many_namespaces_is_refused() {
    let mut book = Book::new(2);
    book.add("a", key("k", 1)).expect("room");
    book.add("b", key("k", 2)).expect("room");
    let error = book.add("c", key("k", 3)).expect_err("no room");
    assert_eq!(error.kind(), Kind::Overloaded);
    assert!(error.message().contains("journal_max"), "{error}");
    book.add("a", key("other", 4))
        .expect("its own namespace takes it in");
    assert_eq!(book.words(), ["b Key k 2", "a Collapsed  4"]);
}

/// A promise that was made and that nothing has ended.
#[derive(Debug, Clone)]
struct Promise {
    namespace: usize,
    of: Removed,
    text: usize,
    at: u64,
    /// The newest number when it was made: whatever fulfils it is newer.
    after: u64,
}

#[derive(Debug, Clone)]
enum Call {
    Remove(usize, usize, u64),
    Select(usize, u8, usize, u64),
    Publish(usize, usize),
    Done(usize),
    Reopen,
}

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const TEXTS: [&str; 5] = ["k0", "k1", "k2", "k3", "k4"];

fn call() -> impl Strategy<Value = Call> {
    let (space, text, at) = (0..NAMESPACES.len(), 0..TEXTS.len(), 1..50_u64);
    prop_oneof![
        6 => (space.clone(), text.clone(), at.clone()).prop_map(|(n, t, s)| Call::Remove(n, t, s)),
        2 => (space.clone(), 0..3_u8, text.clone(), at)
            .prop_map(|(n, of, t, s)| Call::Select(n, of, t, s)),
        3 => (space, text).prop_map(|(n, t)| Call::Publish(n, t)),
        3 => (0..20_usize).prop_map(Call::Done),
        1 => Just(Call::Reopen),
    ]
}

impl Promise {
    /// Whether this item, replayed from now on, does what was promised.
    fn is_kept_by(&self, sequence: u64, item: &Item<'_>) -> bool {
        let What::Removal { of, text, stamp } = item.what else {
            return false;
        };
        let covers = match of {
            Removed::All | Removed::Collapsed => true,
            _ => of == self.of && text == TEXTS[self.text],
        };
        sequence > self.after
            && item.namespace == NAMESPACES[self.namespace]
            && time(&stamp) >= self.at
            && covers
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_promise_is_kept_by_an_item_until_that_is_done(
        calls in prop::collection::vec(call(), 1..80),
        limit in 3..12_usize,
    ) {
        let mut book = Book::new(limit);
        let mut promises: Vec<Promise> = Vec::new();
        for call in calls {
            let after = book.index.next_sequence() - 1;
            let made = match call {
                Call::Remove(namespace, text, at) => {
                    book.add(NAMESPACES[namespace], key(TEXTS[text], at)).expect("few namespaces");
                    Some(Promise { namespace, of: Removed::Key, text, at, after })
                }
                Call::Select(namespace, of, text, at) => {
                    let of = [Removed::All, Removed::Prefix, Removed::Pattern][usize::from(of)];
                    let named = if of == Removed::All { "" } else { TEXTS[text] };
                    let what = removal(of, named, at);
                    book.add(NAMESPACES[namespace], what).expect("few namespaces");
                    Some(Promise { namespace, of, text, at, after })
                }
                Call::Publish(namespace, text) => {
                    let publication = What::Publication { key: TEXTS[text] };
                    book.add(NAMESPACES[namespace], publication).expect("at most dropped");
                    None
                }
                Call::Done(nth) => {
                    if let Some((sequence, bytes)) = book.items.iter().nth(nth) {
                        let (sequence, bytes) = (*sequence, bytes.clone());
                        book.done(sequence);
                        let item = Item::decode(&bytes).expect("decodes");
                        promises.retain(|it| !it.is_kept_by(sequence, &item));
                    }
                    None
                }
                Call::Reopen => {
                    book.reopen();
                    None
                }
            };
            promises.extend(made);
            prop_assert!(book.items.len() <= limit, "{:?}", book.words());
            for promise in &promises {
                let kept = book.items.iter().any(|(sequence, bytes)| {
                    promise.is_kept_by(*sequence, &Item::decode(bytes).expect("decodes"))
                });
                prop_assert!(kept, "{promise:?} by none of {:?}", book.words());
            }
        }
    }
}
