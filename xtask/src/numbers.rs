//! Small arithmetic that several experiments need.

/// The median: of an even number of values, the larger of the two in the middle; 0 where there are none.
pub(crate) fn median(mut values: Vec<f32>) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}

/// The place of the largest value; the first one at a tie, and 0 where there is none.
pub(crate) fn argmax(values: &[f64]) -> usize {
    let larger = |best: usize, i: usize| if values[i] > values[best] { i } else { best };
    (0..values.len()).reduce(larger).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_places() {
        assert_eq!(median(vec![3.0, 1.0, 2.0, 9.0]), 3.0);
        assert_eq!([argmax(&[1.0, 4.0, 4.0]), argmax(&[])], [1, 0]);
    }
}
