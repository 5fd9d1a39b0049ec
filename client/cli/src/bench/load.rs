//! What is asked for: the key set, the values and the order in which they come.
//!
//! Everything is made beforehand from the seed. Keys are scattered over the key space, so that keys
//! that are hot together do not lie together in the store; values are windows of one random pool
//! and do not compress.

use std::str::FromStr;

use bytes::Bytes;
use bytesize::ByteSize;
use pannier_client::proto::{GetManyRequest, GetRequest, PutRequest};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rand_distr::{Distribution as _, Zipf};

use super::{Args, Operation};

/// Random bytes beyond the largest value: so many different windows there are.
const POOL_SLACK_BYTES: usize = 4 << 20;
/// The largest value that fits into one message.
const VALUE_BYTES_MAX: u64 = 4 << 20;
const ZIPF_EXPONENT: f64 = 1.0;

/// How keys are chosen from the set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Distribution {
    Uniform,
    /// The key of rank r comes with a probability proportional to 1 / r^exponent.
    Zipf {
        exponent: f64,
    },
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let exponent = match text {
            "uniform" => return Ok(Self::Uniform),
            "zipf" => ZIPF_EXPONENT,
            _ => text
                .strip_prefix("zipf:")
                .and_then(|number| number.parse().ok())
                .filter(|exponent: &f64| (0.0..=10.0).contains(exponent))
                .ok_or("expected uniform, zipf or zipf:EXPONENT (0 to 10)")?,
        };
        Ok(Self::Zipf { exponent })
    }
}

/// The sizes of values, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ValueSize {
    pub(super) bytes_min: usize,
    pub(super) bytes_max: usize,
}

impl FromStr for ValueSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (min, max) = text.split_once("..").unwrap_or((text, text));
        let (bytes_min, bytes_max) = (parse_size(min)?, parse_size(max)?);
        if bytes_min > bytes_max {
            return Err(format!("{min} is more than {max}"));
        }
        Ok(Self {
            bytes_min,
            bytes_max,
        })
    }
}

fn parse_size(text: &str) -> Result<usize, String> {
    let size: ByteSize = text.parse()?;
    if size.as_u64() > VALUE_BYTES_MAX {
        return Err(format!("{text} is more than {}", ByteSize(VALUE_BYTES_MAX)));
    }
    usize::try_from(size.as_u64()).map_err(|error| error.to_string())
}

/// A number from 0 to 1.
pub(super) fn parse_fraction(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|fraction| (0.0..=1.0).contains(fraction))
        .ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

/// Calls a second.
pub(super) fn parse_rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate| (0.01..=1e7).contains(rate))
        .ok_or_else(|| "expected a number from 0.01 to 10000000".to_owned())
}

/// One call, ready to be sent.
#[derive(Debug)]
pub(super) enum Call {
    Get(GetRequest),
    GetMany(GetManyRequest),
    Put(PutRequest),
}

/// What all slots ask for; read only.
#[derive(Debug)]
pub(super) struct Load {
    namespace: String,
    keys: Vec<String>,
    pool: Bytes,
    value_size: ValueSize,
    operation: Operation,
    reads: f64,
    batch: usize,
    distribution: Distribution,
    seed: u64,
}

impl Load {
    pub(super) fn new(args: &Args, namespace: &str) -> Result<Self, String> {
        let key_count = usize::try_from(args.keys).map_err(|error| error.to_string())?;
        let mut pool = vec![0; args.value_size.bytes_max + POOL_SLACK_BYTES];
        SmallRng::seed_from_u64(args.seed).fill(&mut pool[..]);
        Ok(Self {
            namespace: namespace.to_owned(),
            keys: (0..key_count).map(key).collect(),
            pool: Bytes::from(pool),
            value_size: args.value_size,
            operation: args.operation,
            reads: args.reads,
            batch: args.batch.into(),
            distribution: args.distribution,
            seed: args.seed,
        })
    }

    pub(super) fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// The calls of one slot; `slot` is a number that no other slot of the run has.
    pub(super) fn chooser(&self, slot: u64) -> Result<Chooser, String> {
        let key_count = self.keys.len() as f64;
        let zipf = match self.distribution {
            Distribution::Uniform => None,
            Distribution::Zipf { exponent } => {
                Some(Zipf::new(key_count, exponent).map_err(|error| error.to_string())?)
            }
        };
        let random = SmallRng::seed_from_u64(scatter(self.seed) ^ scatter(slot));
        Ok(Chooser { random, zipf })
    }
}

/// The random choices of one slot.
#[derive(Debug)]
pub(super) struct Chooser {
    random: SmallRng,
    zipf: Option<Zipf<f64>>,
}

impl Chooser {
    /// The next call of the operation that is measured.
    pub(super) fn next(&mut self, load: &Load) -> Call {
        match load.operation {
            Operation::Get => self.get(load),
            Operation::Mixed if self.random.random_bool(load.reads) => self.get(load),
            Operation::Mixed => {
                let index = self.index(load);
                Call::Put(self.put(load, index))
            }
            Operation::GetMany => {
                let keys = (0..load.batch).map(|_| load.keys[self.index(load)].clone());
                Call::GetMany(GetManyRequest {
                    namespace: load.namespace.clone(),
                    keys: keys.collect(),
                    options: None,
                })
            }
        }
    }

    /// A put of the key at `index`, with a random value of a random size within the range.
    pub(super) fn put(&mut self, load: &Load, index: usize) -> PutRequest {
        let sizes = load.value_size;
        let length = self.random.random_range(sizes.bytes_min..=sizes.bytes_max);
        let start = self.random.random_range(0..=load.pool.len() - length);
        PutRequest {
            namespace: load.namespace.clone(),
            key: load.keys[index].clone(),
            value: load.pool.slice(start..start + length),
            ..PutRequest::default()
        }
    }

    fn get(&mut self, load: &Load) -> Call {
        Call::Get(GetRequest {
            namespace: load.namespace.clone(),
            key: load.keys[self.index(load)].clone(),
            options: None,
        })
    }

    fn index(&mut self, load: &Load) -> usize {
        match &self.zipf {
            None => self.random.random_range(0..load.keys.len()),
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a whole number, 1 to key count"
            )]
            Some(zipf) => zipf.sample(&mut self.random) as usize - 1,
        }
    }
}

fn key(index: usize) -> String {
    // The mixing is a bijection: no two keys are the same.
    format!("bench:{:016x}", scatter(index as u64))
}

/// The mixing step of SplitMix64 (Steele, Lea, Flood 2014).
fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::{Distribution, ValueSize, parse_fraction};

    #[test]
    fn sizes_are_one_number_or_a_range() {
        let fixed = ValueSize {
            bytes_min: 1024,
            bytes_max: 1024,
        };
        assert_eq!("1KiB".parse(), Ok(fixed));
        let range = ValueSize {
            bytes_min: 1024,
            bytes_max: 65_536,
        };
        assert_eq!("1KiB..64KiB".parse(), Ok(range));
        assert!("2KiB..1KiB".parse::<ValueSize>().is_err());
        assert!("1GiB".parse::<ValueSize>().is_err());
    }

    #[test]
    fn the_exponent_of_zipf_may_be_given() {
        assert_eq!("zipf".parse(), Ok(Distribution::Zipf { exponent: 1.0 }));
        assert_eq!("zipf:0.9".parse(), Ok(Distribution::Zipf { exponent: 0.9 }));
        assert!("zipf:-1".parse::<Distribution>().is_err());
        assert!("gauss".parse::<Distribution>().is_err());
    }

    #[test]
    fn a_fraction_lies_between_nothing_and_all() {
        assert_eq!(parse_fraction("0.25"), Ok(0.25));
        assert!(parse_fraction("1.5").is_err());
        assert!(parse_fraction("NaN").is_err());
    }
}
