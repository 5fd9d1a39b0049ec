use proptest::prelude::*;

use super::*;

fn text(text: &str) -> Value {
    Value::Text(Bytes::copy_from_slice(text.as_bytes()))
}

/// Everything `bytes` decode to when they arrive in pieces of `piece` bytes.
fn decode(bytes: &[u8], piece: usize) -> Result<Vec<Value>, Malformed> {
    let mut decoder = Decoder::default();
    let mut values = Vec::new();
    for piece in bytes.chunks(piece.max(1)) {
        decoder.buffer().extend_from_slice(piece);
        while let Some(value) = decoder.next()? {
            values.push(value);
        }
    }
    Ok(values)
}

fn one(bytes: &str) -> Value {
    let mut all = decode(bytes.as_bytes(), usize::MAX).expect("is well-formed");
    for piece in 1..8 {
        assert_eq!(decode(bytes.as_bytes(), piece).as_ref(), Ok(&all));
    }
    assert_eq!(all.len(), 1, "{bytes:?}");
    all.remove(0)
}

fn refused(bytes: &str) -> &'static str {
    let fault = decode(bytes.as_bytes(), usize::MAX).expect_err(bytes);
    assert_eq!(decode(bytes.as_bytes(), 1), Err(fault));
    fault.0
}

#[test]
fn every_type_decodes() {
    assert_eq!(one("+OK\r\n"), text("OK"));
    assert_eq!(one("$3\r\na\r\n\r\n"), text("a\r\n"));
    assert_eq!(one("$0\r\n\r\n"), text(""));
    assert_eq!(one("=8\r\ntxt:some\r\n"), text("some"));
    assert_eq!(one(",1.5\r\n"), text("1.5"));
    assert_eq!(
        one("(123456789012345678901234567890\r\n"),
        text("123456789012345678901234567890")
    );
    assert_eq!(one(":-12\r\n"), Value::Integer(-12));
    assert_eq!(one("#t\r\n"), Value::Integer(1));
    for null in ["_\r\n", "$-1\r\n", "*-1\r\n"] {
        assert_eq!(one(null), Value::Null);
    }
    let error = Value::Error(Bytes::from_static(b"ERR no"));
    assert_eq!(one("-ERR no\r\n"), error);
    assert_eq!(one("!6\r\nERR no\r\n"), error);
    assert_eq!(one("*0\r\n"), Value::List(vec![]));
    assert_eq!(
        one("~1\r\n*1\r\n:1\r\n"),
        Value::List(vec![Value::List(vec![Value::Integer(1)])])
    );
    let map = one("%2\r\n+id\r\n:7\r\n$4\r\nrole\r\n$6\r\nmaster\r\n");
    assert_eq!(map.field("id").and_then(Value::integer), Some(7));
    assert_eq!(map.field("role").and_then(Value::utf8), Some("master"));
    assert_eq!(map.field("none"), None);
}

#[test]
fn pushes_are_told_from_replies_and_know_null() {
    let keys = one(">2\r\n$10\r\ninvalidate\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n");
    let list = Value::List(vec![text("a"), text("b")]);
    assert_eq!(keys, Value::Push(vec![text("invalidate"), list]));
    let flush = one(">2\r\n$10\r\ninvalidate\r\n_\r\n");
    assert_eq!(flush, Value::Push(vec![text("invalidate"), Value::Null]));
}

#[test]
fn attributes_are_skipped_wherever_they_stand() {
    let bytes =
        "|1\r\n+a\r\n%1\r\n+b\r\n,0.1\r\n*3\r\n:1\r\n|1\r\n+ttl\r\n:9\r\n:2\r\n|0\r\n*0\r\n";
    let numbers = vec![Value::Integer(1), Value::Integer(2), Value::List(vec![])];
    assert_eq!(one(bytes), Value::List(numbers));
}

#[test]
fn what_is_not_resp_is_refused() {
    assert_eq!(
        refused("HTTP/1.1 200 OK\r\n"),
        "a line begins with no sign of RESP3"
    );
    assert_eq!(refused("\r\n"), "an empty line");
    assert_eq!(refused("+a\n"), "a line does not end with CR and LF");
    assert_eq!(
        refused("$3\r\nabcd\r\n"),
        "a string does not end where it says"
    );
    assert_eq!(refused("$-2\r\n"), "a length is negative");
    assert_eq!(refused("$?\r\n"), "a number is none");
    assert_eq!(refused("*?\r\n"), "a number is none");
    assert_eq!(refused("=2\r\nab\r\n"), "a verbatim string names no kind");
    assert_eq!(refused("*1\r\n>1\r\n"), "a push is inside another value");
    assert_eq!(refused("#x\r\n"), "a line begins with no sign of RESP3");
}

#[test]
fn limits_hold_before_the_bytes_are_there() {
    assert_eq!(refused("$67108865\r\n"), "a frame is too large");
    assert_eq!(refused("$9223372036854775807\r\n"), "a frame is too large");
    assert_eq!(refused("$99999999999999999999\r\n"), "a number is none");
    assert_eq!(refused("*1048577\r\n"), "a list is too long");
    assert_eq!(refused("%9223372036854775807\r\n"), "a list is too long");
    assert_eq!(refused(&"*1\r\n".repeat(9)), "lists are nested too deeply");
    assert_eq!(
        refused(&"*1\r\n".repeat(1 << 20)),
        "lists are nested too deeply"
    );
    assert_eq!(
        refused(&format!("+{}", "a".repeat(70_000))),
        "a line is too long"
    );
    let two_lists = format!("*9\r\n*1048570\r\n{}", "_\r\n".repeat(1 << 20));
    assert_eq!(refused(&two_lists), "a frame is too large");
}

#[test]
fn a_huge_announcement_reserves_nothing() {
    let mut decoder = Decoder::default();
    decoder
        .buffer()
        .extend_from_slice(b"*1048576\r\n$67000000\r\nabc");
    assert_eq!(decoder.next(), Ok(None));
    assert!(decoder.open[0].values.capacity() < 16);
    assert!(decoder.buffer.capacity() < 1024);
}

#[test]
fn what_is_returned_does_not_keep_the_buffer() {
    let mut decoder = Decoder::default();
    decoder.buffer().extend_from_slice(b"$3\r\nkey\r\n+x");
    let place = decoder.buffer.as_ptr() as usize;
    let end = place + decoder.buffer.capacity();
    let value = decoder.next().expect("good").expect("complete");
    let kept = value.text().expect("a text").as_ptr() as usize;
    // The buffer still has the rest, so nothing else can lie there.
    assert!(!(place..end).contains(&kept));
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|text| Value::Text(text.into())),
        any::<i64>().prop_map(Value::Integer),
        Just(Value::Null),
    ];
    leaf.prop_recursive(6, 60, 8, |inner| {
        proptest::collection::vec(inner, 0..8).prop_map(Value::List)
    })
}

fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Text(text) => {
            out.extend(format!("${}\r\n", text.len()).bytes());
            out.extend_from_slice(text);
            out.extend(b"\r\n");
        }
        Value::Integer(number) => out.extend(format!(":{number}\r\n").bytes()),
        Value::List(values) => {
            out.extend(format!("*{}\r\n", values.len()).bytes());
            values.iter().for_each(|value| encode(value, out));
        }
        _ => out.extend(b"_\r\n"),
    }
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_in_any_pieces(
        values in proptest::collection::vec(value(), 0..6),
        piece in 1_usize..50,
    ) {
        let mut bytes = Vec::new();
        values.iter().for_each(|value| encode(value, &mut bytes));
        prop_assert_eq!(decode(&bytes, piece), Ok(values));
    }

    #[test]
    fn random_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1_usize..50,
    ) {
        let _ = decode(&bytes, piece);
    }

    #[test]
    fn almost_resp_never_panics_and_pieces_do_not_matter(
        parts in proptest::collection::vec(
            prop_oneof![
                "[*$>%|~:+_=!#,(-]", "-?[0-9]{1,20}", Just("\r\n".to_owned()), "[a-z:]{0,5}",
                "[*>%|~$][0-4]\r\n", ":[0-9]\r\n", Just("_\r\n".to_owned()),
            ],
            0..40,
        ),
        piece in 1_usize..10,
    ) {
        let bytes = parts.concat();
        let whole = decode(bytes.as_bytes(), usize::MAX);
        prop_assert_eq!(decode(bytes.as_bytes(), piece), whole);
    }
}
