//! Sums up the rounds.

/// The middle of the numbers; of an even count the mean of the two in the middle. NaN of none.
pub(super) fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = numbers.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The number that so large a part of the numbers does not exceed (nearest rank); NaN of none.
pub(super) fn quantile(numbers: &[f64], part: f64) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, reason = "at most the length")]
    let rank = (part * sorted.len() as f64).ceil() as usize;
    let place = sorted.get(rank.saturating_sub(1));
    place.copied().unwrap_or(f64::NAN)
}

/// The largest of the numbers; NaN of none.
pub(super) fn largest(numbers: impl IntoIterator<Item = f64>) -> f64 {
    numbers.into_iter().fold(f64::NAN, f64::max)
}

/// The median of the ratios `above[i] / below[i]`.
///
/// What slows the machine for a while slows both sides of a round, so that their ratio holds.
pub(super) fn median_ratio(
    above: impl IntoIterator<Item = f64>,
    below: impl IntoIterator<Item = f64>,
) -> f64 {
    median(
        above
            .into_iter()
            .zip(below)
            .map(|(above, below)| above / below),
    )
}

#[cfg(test)]
mod tests {
    use super::{largest, median, median_ratio, quantile};

    #[test]
    fn the_median_is_the_middle() {
        assert!(median([]).is_nan());
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn a_quantile_is_one_of_the_numbers() {
        let numbers: Vec<_> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&numbers, 0.99), 99.0);
        assert_eq!(quantile(&numbers, 1.0), 100.0);
        assert_eq!(quantile(&[7.0], 0.5), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        assert_eq!(median_ratio([1.0, 20.0, 3.0], [2.0, 40.0, 1.0]), 0.5);
        assert_eq!(largest([1.0, 3.0, 2.0]), 3.0);
    }
}
