//! What "The Super Weight in Large Language Models" (arXiv 2411.07191, version 1, and the notebook released with it)
//! published, by model: set beside what is measured where the model is the paper's.

/// A row of a published table.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) values: &'static [f64],
}

/// Two of the paper's cells are doubtful.
pub(crate) const TABLE1_CAUTION: &str = "Published rows: Table 1 of arXiv 2411.07191v1. Its last row repeats two cells of the first (HellaSwag, Winogrande), and its text says 49.94 where the table says 50.09: take these with caution.";

/// Table 1: seven accuracies in percent, their mean, perplexities on C4 and WikiText-2.
pub(crate) fn table1(model: &str) -> &'static [Row] {
    match model {
        "huggyllama/llama-7b" => &[
            Row {
                name: "original",
                values: &[
                    41.81, 75.29, 56.93, 73.51, 78.67, 94.60, 70.01, 70.11, 7.08, 5.67,
                ],
            },
            Row {
                name: "prune_sw",
                values: &[
                    19.80, 39.60, 30.68, 0.52, 59.90, 39.40, 56.12, 35.14, 763.65, 1211.11,
                ],
            },
            Row {
                name: "prune_non_sw",
                values: &[
                    41.47, 74.83, 56.35, 69.88, 78.51, 94.40, 69.14, 69.22, 7.57, 6.08,
                ],
            },
            Row {
                name: "prune_sw_plus_sa",
                values: &[
                    26.60, 54.63, 56.93, 12.79, 67.95, 61.70, 70.01, 50.09, 476.23, 720.57,
                ],
            },
        ],
        _ => &[],
    }
}
