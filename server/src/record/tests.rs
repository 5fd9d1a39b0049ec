use std::{collections::HashMap, fs, path::PathBuf};

use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

use super::*;

fn attributes() -> Attributes {
    Attributes::new(
        "text/plain".into(),
        HashMap::from([("b".into(), "2".into()), ("a".into(), "ü".into())]),
        vec!["red".into(), "blue".into()],
    )
    .expect("within limits")
}

const STAMP: Stamp = Stamp::from_bytes(*b"0123456789abcdef");
const TIMES: (Timestamp, Timestamp) = (
    Timestamp::from_millis(1_700_000_000_000),
    Timestamp::from_millis(1_700_000_060_000),
);

fn record(value: &[u8], attributes: Attributes, compression: Compression) -> Record {
    let entry = Entry {
        value: Bytes::copy_from_slice(value),
        attributes,
        negative: false,
    };
    record_of(&entry, compression)
}

fn record_of(entry: &Entry, compression: Compression) -> Record {
    Record::encode(entry, STAMP, TIMES.0, TIMES.1, compression).expect("encodes")
}

/// Records that hold the place of a value, likewise. The same bytes for ever.
fn placeholders() -> Vec<(&'static str, Record)> {
    let manifest = Manifest::new(STAMP, (1 << 20) + 7, vec![1, 2], Some([3; 32]));
    let said = (&attributes(), &[STAMP, STAMP][..]);
    vec![
        ("v1-lease", Record::lease(STAMP, TIMES.0, TIMES.1)),
        (
            "v1-elsewhere",
            record(b"value", attributes(), Compression::None).without_value(),
        ),
        (
            "v1-chunks",
            Record::of_chunks(&manifest, said, STAMP, TIMES).expect("encodes"),
        ),
    ]
}

/// Every kind of record with a value, by name of its golden file.
fn samples() -> Vec<(&'static str, Record, Entry)> {
    let text = b"all work and no play ".repeat(100);
    let make = |name, value: &[u8], attributes: Attributes, compression| {
        let entry = Entry {
            value: Bytes::copy_from_slice(value),
            attributes: attributes.clone(),
            negative: false,
        };
        (name, record(value, attributes, compression), entry)
    };
    let negative = Entry {
        value: Bytes::new(),
        attributes: attributes(),
        negative: true,
    };
    vec![
        make("v1-empty", b"", Attributes::default(), Compression::None),
        make("v1-raw", b"value", attributes(), Compression::None),
        make("v1-lz4", &text, attributes(), Compression::Lz4),
        make("v1-zstd", &text, Attributes::default(), Compression::Zstd),
        (
            "v1-negative",
            record_of(&negative, Compression::Lz4),
            negative,
        ),
    ]
}

#[test]
fn a_negative_record_has_no_value() {
    let mut record = record(b"value", attributes(), Compression::None);
    assert!(Head::read(record.as_bytes()).is_some());
    record.head.is_negative = true;
    let bytes = Record::sealed(record.head, record.bytes.to_vec()).bytes;
    assert_eq!(Head::read(&bytes), None);
}

#[test]
fn a_record_has_the_generations_of_its_tags() {
    let entry = Entry {
        value: Bytes::from_static(b"value"),
        attributes: attributes(),
        negative: false,
    };
    let generations = [Stamp::from_bytes([1; 16]), Stamp::from_bytes([2; 16])];
    let stamp = Stamp::from_bytes([9; 16]);
    let times = (Timestamp::from_millis(1000), Timestamp::from_millis(3500));
    let plain = Compression::None;
    let record = Record::encode_tagged(&entry, &generations, stamp, times, plain).expect("encodes");
    let record = Record::decode(record.as_bytes().clone()).expect("decodes");
    assert_eq!(record.entry().expect("decodes"), entry);
    let tags = ["red".to_owned(), "blue".to_owned()];
    let expected: Vec<_> = tags.into_iter().zip(generations).collect();
    assert_eq!(record.tags().expect("decodes"), expected);
    let expected = Beginning {
        stamp,
        content: Content::Value,
        is_tagged: true,
        is_negative: false,
        lifetime: Duration::from_millis(2500),
    };
    let beginning = |record: &Record| Beginning::read(&record.as_bytes()[..BEGINNING_BYTES]);
    assert_eq!(beginning(&record), Some(expected));
    let expected = Beginning {
        content: Content::Elsewhere,
        is_tagged: false,
        ..expected
    };
    assert_eq!(beginning(&record.without_value()), Some(expected));
}

/// To add the goldens of a new format: `PANNIER_WRITE_GOLDEN=1 cargo test … golden`. Files of
/// released formats are never written again.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a switch for whoever runs the test"
)]
fn golden_records_of_every_format_still_decode() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let bytes_of = |name, record: &Record| {
        let path = dir.join(format!("{name}.record"));
        if std::env::var_os("PANNIER_WRITE_GOLDEN").is_some() && !path.exists() {
            fs::write(&path, record.as_bytes()).expect("writes");
        }
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    for (name, record) in placeholders() {
        let golden = Record::decode(bytes_of(name, &record).into()).expect("decodes");
        assert_eq!(golden.as_bytes(), record.as_bytes(), "{name}");
        assert_eq!(golden.head(), record.head(), "{name}");
    }
    for (name, record, entry) in samples() {
        let bytes = bytes_of(name, &record);
        let golden = Record::decode(bytes.into()).expect("decodes");
        assert_eq!(golden.head().stamp, record.head().stamp, "{name}");
        assert_eq!(golden.head().created, record.head().created, "{name}");
        assert_eq!(golden.head().expires, record.head().expires, "{name}");
        assert_eq!(golden.entry().expect("decodes"), entry, "{name}");
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    for (name, record, _) in samples() {
        let good = record.as_bytes();
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            let error = Record::decode(bad.into()).expect_err(name);
            assert_eq!(error.kind(), Kind::Corrupt, "{name}, bit {bit}");
        }
        for cut in 0..good.len() {
            assert!(
                Record::decode(good.slice(..cut)).is_err(),
                "{name}, cut at {cut}"
            );
        }
        let mut long = good.to_vec();
        long.push(0);
        assert!(
            Record::decode(long.into()).is_err(),
            "{name}, one byte more"
        );
    }
}

#[test]
fn what_does_not_shrink_is_kept_as_it_is() {
    let noise: Vec<u8> = (0..4096).map(|_| fastrand::u8(..)).collect();
    for compression in [Compression::Lz4, Compression::Zstd] {
        let record = record(&noise, Attributes::default(), compression);
        assert_eq!(record.as_bytes().len(), HEADER_BYTES + noise.len());
    }
    let packed = record(&[7; 4096], Attributes::default(), Compression::Lz4);
    assert!(packed.as_bytes().len() < 200);
}

#[test]
fn a_record_that_lies_about_its_size_is_corrupt_and_allocates_nothing() {
    let record = record(&[7; 4096], Attributes::default(), Compression::Lz4);
    let mut bytes = record.as_bytes().to_vec();
    bytes[48..52].copy_from_slice(&(u32::MAX).to_le_bytes());
    let sum = checksum(&bytes);
    bytes[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    assert!(Record::decode(bytes.clone().into()).is_err());
    bytes[48..52].copy_from_slice(&4097_u32.to_le_bytes());
    let sum = checksum(&bytes);
    bytes[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    let lying = Record::decode(bytes.into()).expect("the header alone cannot tell");
    assert_eq!(
        lying.entry().expect_err("size differs").kind(),
        Kind::Corrupt
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_goes_in_comes_out(
        value in prop::collection::vec(any::<u8>(), 0..5000),
        repeat in 1..4_usize,
        pairs in prop::collection::hash_map(".{1,20}", ".{0,50}", 0..8),
        tags in prop::collection::vec("[a-zäß]{1,16}", 0..6),
        compression in prop::sample::select(vec![
            Compression::None, Compression::Lz4, Compression::Zstd,
        ]),
    ) {
        let attributes = Attributes::new("a/b".into(), pairs, tags).expect("within limits");
        let value = value.repeat(repeat);
        let encoded = record(&value, attributes.clone(), compression);
        let decoded = Record::decode(encoded.as_bytes().clone()).expect("decodes");
        prop_assert_eq!(decoded.head(), encoded.head());
        let entry = decoded.entry().expect("decodes");
        prop_assert_eq!(entry.value, value);
        prop_assert_eq!(entry.attributes, attributes);
    }

    #[test]
    fn random_bytes_never_decode_and_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        prop_assert!(Record::decode(bytes.into()).is_err());
    }
}

#[test]
fn a_record_without_its_value_keeps_version_and_times_and_nothing_else() {
    let whole = record(&b"x".repeat(5000), attributes(), Compression::Lz4);
    let bare = whole.without_value();
    let decoded = Record::decode(bare.as_bytes().clone()).expect("decodes");
    assert_eq!(decoded.head().stamp, whole.head().stamp);
    assert_eq!(decoded.head().expires, whole.head().expires);
    assert_eq!(decoded.head().value_bytes, 5000);
    assert!(whole.has_value() && !decoded.has_value());
    assert!(decoded.entry().is_err());
    assert_eq!(bare.as_bytes().len(), HEADER_BYTES);
}

/// It is in Redis, where daemons of other versions read it.
const LEASE: [u8; 64] = [
    b'0', b'1', b'2', b'3', b'4', b'5', b'6', b'7', b'8', b'9', b'a', b'b', b'c', b'd', b'e', b'f',
    b'P', b'N', b'R', 1, 4, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

#[test]
fn a_lease_is_a_record_without_anything() {
    let stamp = Stamp::from_bytes(*b"0123456789abcdef");
    let at = Timestamp::from_millis;
    let lease = Record::lease(stamp, at(7), at(9));
    assert_eq!(lease.as_bytes()[..CHECKSUM_AT], LEASE[..CHECKSUM_AT]);
    assert_eq!(lease.as_bytes().len(), LEASE_BYTES);
    let decoded = Record::decode(lease.as_bytes().clone()).expect("decodes");
    assert_eq!(decoded.head(), lease.head());
    assert_eq!(decoded.head().content(), Content::Lease);
    assert!(!decoded.has_value() && decoded.entry().is_err());
    assert!(is_lease(lease.as_bytes()));
    let begin = Beginning::read(&lease.as_bytes()[..BEGINNING_BYTES]).expect("a record");
    assert_eq!((begin.stamp, begin.content), (stamp, Content::Lease));
    for other in [
        record(b"v", attributes(), Compression::None),
        record(b"v", attributes(), Compression::None).without_value(),
    ] {
        assert!(!is_lease(other.as_bytes()));
    }
    assert!(!is_lease(b"short"));
    // Of a later version.
    let mut later = lease.as_bytes().to_vec();
    later[20] = 6;
    assert_eq!(Beginning::read(&later[..BEGINNING_BYTES]), None);
}
