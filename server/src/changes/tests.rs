use super::*;
use crate::key::Key;

const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn name(key: &str) -> EntryName {
    let namespace = NamespaceName::new("n").expect("valid");
    EntryName::new(&namespace, &Key::new(key).expect("valid"))
}

fn small() -> (Changes, Clock) {
    let clock = Clock::mock(START);
    (Changes::bounded(clock.clone(), 4, 10_000), clock)
}

async fn keys(follower: &mut Follower, count: usize) -> Vec<String> {
    let mut keys = Vec::new();
    while keys.len() < count {
        for change in follower.next().await.expect("in time") {
            let Change::Name(name) = &*change else {
                panic!("{change:?}");
            };
            let key = EntryName::key_of(name.as_bytes()).expect("a name");
            keys.push(String::from_utf8(key.to_vec()).expect("text"));
        }
    }
    keys
}

#[tokio::test]
async fn what_comes_after_the_beginning_is_told_in_order() {
    let (changes, _) = small();
    changes.changed(&name("before"));
    let (mut follower, beginning) = changes.follow(b"", 9).expect("room");
    assert_eq!(beginning, Beginning::Now);
    for key in ["a", "b", "c"] {
        changes.changed(&name(key));
    }
    assert_eq!(keys(&mut follower, 3).await, ["a", "b", "c"]);
    assert_eq!(changes.stats().followers, 1);
}

#[tokio::test]
async fn a_waiting_follower_is_woken() {
    let (changes, _) = small();
    let (mut follower, _) = changes.follow(b"", 9).expect("room");
    let (told, ()) = tokio::join!(keys(&mut follower, 1), async {
        tokio::task::yield_now().await;
        changes.changed(&name("k"));
    });
    assert_eq!(told, ["k"]);
}

#[tokio::test]
async fn a_follower_that_goes_can_be_resumed_until_its_position_has_gone() {
    let (changes, _) = small();
    let (mut follower, _) = changes.follow(b"", 9).expect("room");
    changes.changed(&name("a"));
    assert_eq!(keys(&mut follower, 1).await, ["a"]);
    let token = follower.token(follower.position());
    drop(follower);
    for key in ["b", "c", "d", "e"] {
        changes.changed(&name(key));
    }
    let (mut follower, beginning) = changes.follow(&token, 9).expect("room");
    assert_eq!(beginning, Beginning::Resumed);
    assert_eq!(keys(&mut follower, 4).await, ["b", "c", "d", "e"]);
    changes.changed(&name("f"));
    let (_, beginning) = changes.follow(&token, 9).expect("room");
    assert_eq!(beginning, Beginning::Lost);
}

#[tokio::test]
async fn tokens_of_others_are_a_loss_and_too_long_ones_a_fault() {
    let (changes, _) = small();
    let (other, _) = small();
    let (stranger, _) = other.follow(b"", 9).expect("room");
    let (own, _) = changes.follow(b"", 9).expect("room");
    let future = own.token(own.position() + 1);
    for token in [&stranger.token(0)[..], &future, b"x", &[0; 64]] {
        let (_, beginning) = changes.follow(token, 9).expect("room");
        assert_eq!(beginning, Beginning::Lost, "{token:?}");
    }
    let refused = changes.follow(&[0; 65], 9).err().expect("too long");
    assert_eq!(refused.kind(), Kind::Invalid);
}

#[tokio::test]
async fn who_is_too_slow_is_told_so_and_holds_nobody_back() {
    let (changes, _) = small();
    let (mut slow, _) = changes.follow(b"", 2).expect("room");
    let (mut quick, _) = changes.follow(b"", 2).expect("room");
    assert_eq!(
        changes.follow(b"", 2).err().expect("full").kind(),
        Kind::Overloaded
    );
    for round in 0..5 {
        let key = format!("{round}");
        changes.changed(&name(&key));
        assert_eq!(keys(&mut quick, 1).await, [key]);
    }
    assert_eq!(changes.stats().followers, 1);
    let third = changes.follow(b"", 2).expect("the slow one does not count");
    assert!(slow.next().await.is_none());
    assert_eq!(changes.stats().dropped, 1);
    drop(third);
}

#[tokio::test]
async fn nothing_is_kept_long_after_the_last_has_gone() {
    let (changes, clock) = small();
    assert!(!changes.are_kept());
    let (follower, _) = changes.follow(b"", 9).expect("room");
    let token = follower.token(follower.position());
    clock.advance(LINGER);
    changes.changed(&name("a"));
    drop(follower);
    clock.advance(LINGER - Duration::from_millis(1));
    changes.changed(&name("b"));
    let (mut follower, beginning) = changes.follow(&token, 9).expect("room");
    assert_eq!(beginning, Beginning::Resumed);
    assert_eq!(keys(&mut follower, 2).await, ["a", "b"]);
    drop(follower);
    clock.advance(LINGER);
    changes.changed(&name("c"));
    assert!(!changes.are_kept());
    let (_, beginning) = changes.follow(&token, 9).expect("room");
    assert_eq!(beginning, Beginning::Lost);
}

#[tokio::test]
async fn long_keys_of_other_programs_take_no_room() {
    let (changes, _) = small();
    let (mut follower, _) = changes.follow(b"", 9).expect("room");
    let long = Bytes::from(vec![b'k'; REDIS_KEY_BYTES_MAX + 1]);
    changes.pushed(&[long, Bytes::from_static(b"short")]);
    let told = follower.next().await.expect("in time");
    assert_eq!(*told[0], Change::Redis(b"short"[..].into()));
    assert_eq!(told.len(), 1);
}
