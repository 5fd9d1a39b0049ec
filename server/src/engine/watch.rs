//! Watching: what changed in one namespace, for a caller that keeps copies.

use std::{collections::VecDeque, fmt};

use bytes::Bytes;
use tokio::task::coop::consume_budget;

use super::Engine;
use crate::{
    changes::{Beginning, Change, ChangesStats, Follower, Selected},
    entry::TAG_BYTES_MAX,
    error::{Error, Kind, Result},
    key::{EntryName, KEY_BYTES_MAX, NamespaceName},
    namespace::Namespace,
};

/// A caller whose namespace is quiet is told after so many changes of others where it stands, so
/// that its token does not leave the window while nothing happens to it.
const SILENCE_MAX: u64 = 4096;

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Nothing, up to here.
    Nothing,
    /// These keys changed.
    Keys(Vec<String>),
    /// These went.
    Selected(Selected),
    /// Every entry with this tag may have gone.
    Tag(String),
    /// Anything may have changed.
    Lost,
}

/// News, and what to resume with after it.
#[derive(Debug)]
pub struct Told {
    /// What happened.
    pub news: News,
    /// The resume token.
    pub token: Bytes,
}

/// The changes of one namespace as they happen.
pub struct Watcher {
    follower: Follower,
    scope: Scope,
    /// Where the last that was told, or is about to be, stands.
    told: u64,
    waiting: VecDeque<Told>,
}

/// Which changes concern a namespace.
struct Scope {
    namespace: NamespaceName,
    /// What its names begin with.
    names: Box<[u8]>,
    /// What its keys in Redis begin with; `None` when it has none there.
    redis: Option<Bytes>,
    /// Both of its tags, if it can have any.
    tags: Option<(Box<[u8]>, Bytes)>,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watcher({})", self.scope.namespace.as_str())
    }
}

impl Engine {
    /// Follows a namespace from now on, or from where the token of an earlier watcher says.
    /// `Invalid` for a namespace or token that breaks a limit, `Overloaded` beyond
    /// `server.max_watchers`.
    pub fn watch(&self, namespace: &str, token: &[u8]) -> Result<Watcher> {
        let namespace = self.namespaces.get(namespace)?;
        let watcher = self.watch_in(&namespace, token);
        Self::counted(&namespace, watcher)
    }

    fn watch_in(&self, namespace: &Namespace, token: &[u8]) -> Result<Watcher> {
        let max = self.config.server.max_watchers;
        let (follower, beginning) = self.local.changes().follow(token, max)?;
        let shared = self.shared_for(namespace);
        let tags = namespace.tags.as_ref().map(|tags| {
            let names = EntryName::prefix(&tags.name, "");
            (names, tags.space.prefix().clone())
        });
        let mut watcher = Watcher {
            scope: Scope {
                names: EntryName::prefix(&namespace.name, ""),
                redis: shared.map(|_| namespace.space.prefix().clone()),
                tags,
                namespace: namespace.name.clone(),
            },
            told: follower.position(),
            waiting: VecDeque::new(),
            follower,
        };
        // Looked at after the position was taken: what comes in between is told as a gap. While
        // Redis is away its changes are not heard of, so nothing that is held now is sure.
        let detached = shared.is_some_and(|shared| !shared.coherence.is_attached());
        let first = match beginning == Beginning::Lost || detached {
            true => News::Lost,
            false => News::Nothing,
        };
        watcher.tell(first, watcher.told);
        Ok(watcher)
    }

    /// Figures of watching.
    pub fn watch_stats(&self) -> ChangesStats {
        self.local.changes().stats()
    }
}

impl Watcher {
    /// The next news; the first at once. `Overloaded` when it came too late for it: then this
    /// watcher has ended. Cancel safe.
    pub async fn next(&mut self) -> Result<Told> {
        // Changes without a pause must not keep a worker from its other callers.
        consume_budget().await;
        loop {
            if let Some(told) = self.waiting.pop_front() {
                self.follower.told();
                return Ok(told);
            }
            let first = self.follower.position();
            let Some(changes) = self.follower.next().await else {
                return Err(Error::new(
                    Kind::Overloaded,
                    "watch: too slow: changes went by before this stream had been read so far; \
                     watch again, and drop what you hold",
                ));
            };
            for (number, change) in (first..).zip(changes) {
                if let Some(news) = self.scope.news(&change) {
                    self.tell(news, number + 1);
                }
            }
            let position = self.follower.position();
            if position - self.told >= SILENCE_MAX {
                self.tell(News::Nothing, position);
            }
        }
    }

    /// Queues news, together with what waits when that says the same or can say both.
    fn tell(&mut self, news: News, position: u64) {
        self.told = position;
        let token = self.follower.token(position);
        if let Some(last) = self.waiting.back_mut() {
            match (&mut last.news, &news) {
                (News::Keys(keys), News::Keys(more)) => {
                    for key in more {
                        if keys.last() != Some(key) {
                            keys.push(key.clone());
                        }
                    }
                    last.token = token;
                    return;
                }
                (last_news, news) if *last_news == *news => {
                    last.token = token;
                    return;
                }
                _ => {}
            }
        }
        self.waiting.push_back(Told { news, token });
    }
}

impl Scope {
    /// What a change means here; `None` when it is of no concern.
    fn news(&self, change: &Change) -> Option<News> {
        match change {
            Change::Name(name) => {
                let name = name.as_bytes();
                let tag = || tag(name, &self.tags.as_ref()?.0);
                key(name, &self.names).or_else(tag)
            }
            Change::Redis(name) => {
                let tag = || tag(name, &self.tags.as_ref()?.1);
                key(name, self.redis.as_ref()?).or_else(tag)
            }
            Change::Selected(namespace, selected) if *namespace == self.namespace => {
                Some(News::Selected(selected.clone()))
            }
            Change::Selected(namespace, _) => {
                let ours = namespace.tagged() == Some(self.namespace.as_str());
                ours.then_some(News::Selected(Selected::All))
            }
            Change::SharedGap => self.redis.is_some().then_some(News::Lost),
            Change::Everything => Some(News::Lost),
        }
    }
}

fn key(name: &[u8], prefix: &[u8]) -> Option<News> {
    Some(News::Keys(vec![rest(name, prefix, KEY_BYTES_MAX)?]))
}

fn tag(name: &[u8], prefix: &[u8]) -> Option<News> {
    Some(News::Tag(rest(name, prefix, TAG_BYTES_MAX)?))
}

fn rest(name: &[u8], prefix: &[u8], bytes_max: usize) -> Option<String> {
    let rest = std::str::from_utf8(name.strip_prefix(prefix)?).ok()?;
    (1..=bytes_max)
        .contains(&rest.len())
        .then(|| rest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        changes::Changes,
        clock::{Clock, Timestamp},
        key::Key,
    };

    fn scope(namespace: &str, redis: Option<&'static str>) -> Scope {
        let namespace = NamespaceName::new(namespace).expect("valid");
        Scope {
            names: EntryName::prefix(&namespace, ""),
            redis: redis.map(|it| Bytes::from_static(it.as_bytes())),
            tags: Some((
                EntryName::prefix(&namespace.of_tags(), ""),
                Bytes::from_static(b"pannier:n!tags:"),
            )),
            namespace,
        }
    }

    fn name(namespace: &str, key: &str) -> EntryName {
        let namespace = NamespaceName::parse(namespace).expect("valid");
        EntryName::new(&namespace, &Key::new(key).expect("valid"))
    }

    #[test]
    fn a_namespace_is_told_of_its_own_changes_only() {
        let keys = |key: &str| Some(News::Keys(vec![key.to_owned()]));
        let plain = scope("n", Some("pannier:n:"));
        let raw = scope("raw", Some("app:"));
        let local = scope("l", None);
        assert_eq!(plain.news(&Change::Name(name("n", "k"))), keys("k"));
        assert_eq!(plain.news(&Change::Name(name("n2", "k"))), None);
        let pushed = |key: &[u8]| Change::Redis(key.into());
        assert_eq!(plain.news(&pushed(b"pannier:n:a:b")), keys("a:b"));
        assert_eq!(raw.news(&pushed(b"app:x")), keys("x"));
        for other in [&b"pannier:n:"[..], b"pannier:n:\xff", b"pannier:m:k", b""] {
            assert_eq!(plain.news(&pushed(other)), None, "{other:?}");
        }
        assert_eq!(local.news(&pushed(b"anything")), None);
        let tag = Some(News::Tag("t".into()));
        assert_eq!(plain.news(&Change::Name(name("n!tags", "t"))), tag);
        assert_eq!(plain.news(&pushed(b"pannier:n!tags:t")), tag);
        assert_eq!(local.news(&Change::Name(name("n!tags", "t"))), None);
        let tags = |namespace: &str| {
            let namespace = NamespaceName::parse(namespace).expect("valid");
            plain.news(&Change::Selected(namespace, Selected::All))
        };
        assert_eq!(tags("n!tags"), Some(News::Selected(Selected::All)));
        assert_eq!(tags("m!tags"), None);
        assert_eq!(plain.news(&Change::SharedGap), Some(News::Lost));
        assert_eq!(local.news(&Change::SharedGap), None);
        assert_eq!(local.news(&Change::Everything), Some(News::Lost));
    }

    #[tokio::test]
    async fn neighbours_are_told_together_and_silence_now_and_then() {
        let changes = Changes::new(Clock::mock(Timestamp::from_millis(1)));
        let (follower, _) = changes.follow(b"", 1).expect("room");
        let mut watcher = Watcher {
            told: follower.position(),
            follower,
            scope: scope("n", None),
            waiting: VecDeque::new(),
        };
        for key in ["a", "a", "b"] {
            changes.changed(&name("n", key));
            changes.changed(&name("other", "x"));
        }
        changes.everything();
        changes.everything();
        let all = || Selected::All;
        changes.selected(&NamespaceName::new("n").expect("valid"), all);
        let expected = [
            News::Keys(vec!["a".into(), "b".into()]),
            News::Lost,
            News::Selected(Selected::All),
        ];
        for expected in expected {
            assert_eq!(watcher.next().await.expect("in time").news, expected);
        }
        for _ in 0..SILENCE_MAX {
            changes.changed(&name("other", "x"));
        }
        assert_eq!(watcher.next().await.expect("in time").news, News::Nothing);
    }
}
