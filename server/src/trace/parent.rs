//! The caller's span, from the header `traceparent`: <https://www.w3.org/TR/trace-context/>.
//!
//! ```text
//!   00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
//!   version    trace id, not all zero     span id, likewise  flags, of which 1 says: sampled
//! ```
//! What is not exactly that counts as none. A later version may go on after the flags.

/// The caller's span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace_id: [u8; 16],
    pub(super) span_id: [u8; 8],
    pub(super) sampled: bool,
}

impl Parent {
    /// The half of the trace id that is random by all conventions.
    pub(super) fn low(&self) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.trace_id;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// Reads the header.
pub(super) fn parent(header: &str) -> Option<Parent> {
    let text = header.trim().as_bytes();
    let (head, rest) = text.split_at_checked(55)?;
    if [head[2], head[35], head[52]] != *b"---" {
        return None;
    }
    let [version] = hex(&head[..2])?;
    match version {
        0 if !rest.is_empty() => return None,
        0xff => return None,
        _ if !rest.is_empty() && rest[0] != b'-' => return None,
        _ => {}
    }
    let (trace_id, span_id) = (hex::<16>(&head[3..35])?, hex::<8>(&head[36..52])?);
    let [flags] = hex(&head[53..55])?;
    let valid = trace_id != [0; 16] && span_id != [0; 8];
    valid.then_some(Parent {
        trace_id,
        span_id,
        sampled: flags & 1 == 1,
    })
}

/// Lower-case hexadecimal digits.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_standard_is_read() {
        let parent = parent(GOOD).expect("good");
        assert_eq!(parent.trace_id[..2], [0x4b, 0xf9]);
        assert_eq!(parent.low(), 0xa3ce_929d_0e0e_4736);
        assert_eq!(
            parent.span_id,
            [0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]
        );
        assert!(parent.sampled);
    }

    #[test]
    fn flags_say_whether_it_is_sampled() {
        for (flags, sampled) in [("00", false), ("02", false), ("03", true), ("ff", true)] {
            let header = format!("{}{flags}", &GOOD[..53]);
            assert_eq!(parent(&header).expect("good").sampled, sampled, "{flags}");
        }
    }

    #[test]
    fn a_later_version_may_say_more() {
        let later = format!("01{}-more", &GOOD[2..]);
        assert!(parent(&later).is_some());
        assert!(parent(&format!("01{}", &GOOD[2..])).is_some());
        assert!(parent(&format!("01{}more", &GOOD[2..])).is_none());
    }

    #[test]
    fn anything_else_is_no_parent() {
        let zeros = "0".repeat(32);
        let bad = [
            String::new(),
            "00".into(),
            GOOD[..54].into(),
            format!("{GOOD}-"),
            format!("ff{}", &GOOD[2..]),
            format!("0g{}", &GOOD[2..]),
            GOOD.to_uppercase(),
            GOOD.replace('-', "_"),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &zeros),
            GOOD.replace("00f067aa0ba902b7", &zeros[..16]),
            GOOD.replace("0e4736-", "0e473é-"),
            "é".repeat(30),
        ];
        for header in bad {
            assert_eq!(parent(&header), None, "{header:?}");
        }
    }
}
