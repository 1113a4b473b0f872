//! What arXiv 2201.05596 published: other models and other data.

use crate::page::table::Table;

/// What stands under the table.
pub(super) const CAPTION: &str = "From arXiv 2201.05596, Table 2, and the tutorial of its repository (zero-shot accuracy, percent; the mean of the six is ours): 1.3 trillion bytes of text, 128 GPUs, learning rates that differ between rows. Literature beside what is measured here, never subtracted from it.";

/// Model, weights, LAMBADA, PIQA, BoolQ, RACE-h, TriviaQA, WebQs.
const ROWS: [(&str, &str, [f64; 6]); 8] = [
    (
        "350M dense",
        "0.35e9",
        [52.03, 69.31, 53.64, 31.77, 3.21, 1.57],
    ),
    (
        "350M+MoE-128",
        "13e9",
        [62.70, 74.59, 60.46, 35.60, 16.58, 5.17],
    ),
    (
        "350M+PR-MoE-32/64",
        "4.0e9",
        [63.65, 73.99, 59.88, 35.69, 16.30, 4.73],
    ),
    (
        "350M+PR-MoE, 21 layers, MoS",
        "3.5e9",
        [63.46, 73.34, 58.07, 34.83, 13.69, 5.22],
    ),
    (
        "1.3B dense",
        "1.3e9",
        [63.65, 73.39, 63.39, 35.60, 10.05, 3.25],
    ),
    (
        "1.3B+MoE-128",
        "52e9",
        [69.84, 76.71, 64.92, 38.09, 31.29, 7.19],
    ),
    (
        "1.3B+PR-MoE-64/128",
        "31e9",
        [70.60, 77.75, 67.16, 38.09, 28.86, 7.73],
    ),
    (
        "1.3B+PR-MoE, 21 layers, MoS",
        "27e9",
        [70.17, 77.69, 65.66, 36.94, 29.05, 8.22],
    ),
];

pub(super) fn table() -> Table {
    let mut table = Table::new([
        "Model", "weights", "LAMBADA", "PIQA", "BoolQ", "RACE-h", "TriviaQA", "WebQs", "mean",
    ]);
    for (model, weights, values) in ROWS {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let numbers = values.into_iter().chain([mean]).map(|v| format!("{v:.2}"));
        table.push(
            [model.to_owned(), weights.to_owned()]
                .into_iter()
                .chain(numbers),
        );
    }
    table
}
