//! Bytes as hexadecimal digits.

use std::fmt::Write;

/// Two lower-case digits a byte.
pub(crate) fn encode(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing into a String does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The bytes of such a text, of either case.
///
/// # Errors
/// When it is not an even number of hexadecimal digits.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, String> {
    let invalid = || "expected an even number of hexadecimal digits".to_owned();
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return Err(invalid());
    };
    pairs
        .iter()
        .map(|[high, low]| Some((digit(*high)? << 4) | digit(*low)?))
        .collect::<Option<_>>()
        .ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn bytes_survive_their_text_form() {
        assert_eq!(encode(&[0, 0x0a, 0xff]), "000aff");
        assert_eq!(decode("000aFF"), Ok(vec![0, 0x0a, 0xff]));
        assert_eq!(decode(""), Ok(Vec::new()));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["0", "0g", "+1", "ä"] {
            assert!(decode(text).is_err(), "{text}");
        }
    }
}
