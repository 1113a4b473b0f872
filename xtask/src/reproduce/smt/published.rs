//! What arXiv 2405.15525 and its repository published: other models and other data.

use crate::page::table::Table;

/// What stands under the table.
pub(super) const CAPTION: &str = "From arXiv 2405.15525 (averages over eight commonsense tasks, percent; seconds per step in its Table 1) and its repository. They include 100 steps of full training as a warm-up, offload in the row of full training, and rates that are not matched. Other models and data: shown beside, never subtracted.";

/// Model, full training, LoRA, DoRA, SMT at about .84 %, SMT at the larger share.
const ROWS: [[&str; 6]; 6] = [
    ["LLaMA-7B", "81.4", "76.3", "78.4", "78.7", "81.4 (4.91 %)"],
    ["LLaMA-13B", "-", "80.5", "81.5", "82.4", "84.3 (4.91 %)"],
    [
        "Llama-2-7B",
        "82.2",
        "77.6",
        "80.5",
        "81.8",
        "83.4 (4.91 %)",
    ],
    ["Llama-3-8B", "-", "80.8", "85.2", "86.8", "87.2 (3.01 %)"],
    [
        "DeepSeek-R1-Distill-8B, base 34.0",
        "68.6",
        "-",
        "-",
        "68.6",
        "-",
    ],
    [
        "Seconds per step, LLaMA-7B",
        "243.84",
        "17.82",
        "18.04",
        "16.68 (1.26 %)",
        "-",
    ],
];

pub(super) fn table() -> Table {
    let mut table = Table::new([
        "Model",
        "Full",
        "LoRA",
        "DoRA",
        "SMT .84 %",
        "SMT, larger share",
    ]);
    for row in ROWS {
        table.push(row);
    }
    table
}
