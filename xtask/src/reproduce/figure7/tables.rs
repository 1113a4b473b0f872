//! The tables of Figure 7.

use sw_eval::Metric;

use super::super::blocks::{CLIP, Layout, PAPER, RESTORE, RTN, SEARCHED, Size, Subject};
use crate::{
    lab::Lab,
    page::table::{Table, fixed, p_value, signed},
    published,
};

/// One row for each size and method.
pub(super) fn perplexity_table(sizes: &[Size], of: &Subject) -> Table {
    let methods = [
        (RTN, Layout::Flat),
        (PAPER, Layout::Flat),
        (SEARCHED, Layout::Flat),
        (CLIP, Layout::Flat),
        (RESTORE, Layout::Flat),
        (RTN, Layout::Tiles),
        (SEARCHED, Layout::Tiles),
    ];
    let mut table = Table::new([
        "Block",
        "Method",
        "Perplexity",
        "- unquantized",
        "from",
        "to",
        "- RTN",
        "from ",
        "to ",
        "- ours with the paper's z",
        "from  ",
        "to  ",
    ]);
    let base = of.windows.as_ref();
    let base = base.and_then(|s| s.value(of.text?, Metric::Perplexity));
    let mut row = vec!["-".to_owned(), "unquantized".into(), fixed(base, 3)];
    row.extend((0..9).map(|_| "-".to_owned()));
    table.push(row);
    for size in sizes {
        for (method, layout) in methods {
            let Some(s) = size.get(method, layout) else {
                continue;
            };
            let mut row = vec![size.name(), named(method, layout), fixed(s.perplexity, 3)];
            let beside_paper = size.perplexity_against_paper.as_ref();
            let beside_paper =
                beside_paper.filter(|_| (method, layout) == (SEARCHED, Layout::Flat));
            for p in [
                s.perplexity_against_original.as_ref(),
                s.perplexity_against_rtn.as_ref(),
                beside_paper,
            ] {
                let numbers = p.map(|p| [p.difference, p.interval[0], p.interval[1]]);
                row.extend([0, 1, 2].map(|i| signed(numbers.map(|n| n[i]), 3)));
            }
            table.push(row);
        }
    }
    table
}

/// A method with the layout of its blocks, where that is not the usual one.
fn named(method: &str, layout: Layout) -> String {
    match layout {
        Layout::Flat => method.to_owned(),
        Layout::Tiles => format!("{method}, tiles"),
    }
}

pub(super) fn accuracy_table(sizes: &[Size], lab: &Lab) -> Table {
    let columns = [
        (RTN, Layout::Flat),
        (PAPER, Layout::Flat),
        (SEARCHED, Layout::Flat),
        (CLIP, Layout::Flat),
        (RESTORE, Layout::Flat),
        (RTN, Layout::Tiles),
        (SEARCHED, Layout::Tiles),
    ];
    let published = lab.known.as_deref().map_or(&[][..], published::figure7);
    let mut header = vec!["Block".to_owned(), "searched z".into()];
    header.extend(columns.map(|(method, layout)| named(method, layout)));
    header.extend(["searched - RTN", "from", "to"].map(String::from));
    if !published.is_empty() {
        header.extend(["RTN, the paper".to_owned(), "ours, the paper".into()]);
    }
    let mut table = Table::new(header);
    for size in sizes {
        let mut row = vec![size.name(), size.searched_z.to_string()];
        row.extend(columns.map(|(method, layout)| {
            fixed(
                size.get(method, layout)
                    .and_then(|s| s.average)
                    .map(|v| 100.0 * v),
                2,
            )
        }));
        let p = size.against_rtn.as_ref();
        let numbers = p.map(|p| [p.difference, p.interval[0], p.interval[1]]);
        row.extend([0, 1, 2].map(|i| signed(numbers.map(|n| 100.0 * n[i]), 2)));
        if !published.is_empty() {
            let paper = published.iter().find(|p| Some(p.side) == size.side);
            row.extend([paper.map(|p| p.rtn), paper.map(|p| p.ours)].map(|v| fixed(v, 2)));
        }
        table.push(row);
    }
    table
}

pub(super) fn search_table(sizes: &[Size], listed: &[f32]) -> Table {
    let mut table = Table::new([
        "Block",
        "searched z",
        "its error",
        "listed z (error)",
        "its error ",
        "listed z (accuracy)",
        "accuracy difference",
        "from",
        "to",
        "p",
    ]);
    for size in sizes {
        let found = &size.reconstruction;
        let errors = listed.iter().filter_map(|&z| Some((z, found.at(z)?)));
        let best = errors.reduce(|a, b| if b.1 < a.1 { b } else { a });
        let p = size.against_list.as_ref();
        table.push([
            size.name(),
            found.best.to_string(),
            format!("{:.3e}", found.error),
            best.map_or("-".into(), |b| b.0.to_string()),
            best.map_or("-".into(), |b| format!("{:.3e}", b.1)),
            size.list_best.map_or("-".into(), |z| z.to_string()),
            signed(p.map(|p| 100.0 * p.difference), 2),
            signed(p.map(|p| 100.0 * p.interval[0]), 2),
            signed(p.map(|p| 100.0 * p.interval[1]), 2),
            p.map_or("-".into(), |p| p_value(p.mcnemar.p_value)),
        ]);
    }
    table
}
