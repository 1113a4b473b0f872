//! The tables of Figure 7.

use sw_eval::Metric;

use super::super::blocks::{CLIP, Layout, PAPER, RESTORE, RTN, SEARCHED, Size, Subject};
use crate::{
    lab::Lab,
    page::table::{Table, fixed, p_value, signed},
    published,
};

pub(super) fn perplexity_table(sizes: &[Size], of: &Subject) -> Table {
    let methods = [RTN, PAPER, SEARCHED, CLIP, RESTORE];
    let mut header = vec!["Block", "unquantized"];
    header.extend(methods);
    header.extend([
        "searched - RTN",
        "from",
        "to",
        "searched - the paper's z",
        "from ",
        "to ",
    ]);
    let mut table = Table::new(header);
    let windows = of.windows.as_ref();
    let base = windows.and_then(|s| s.value(of.text?, Metric::Perplexity));
    for size in sizes {
        let mut row = vec![size.name(), fixed(base, 3)];
        row.extend(
            methods
                .map(|method| fixed(size.get(method, Layout::Flat).and_then(|s| s.perplexity), 3)),
        );
        for p in [&size.perplexity_against_rtn, &size.perplexity_against_paper] {
            let p = p.as_ref();
            row.extend([
                signed(p.map(|p| p.difference), 3),
                signed(p.map(|p| p.interval[0]), 3),
                signed(p.map(|p| p.interval[1]), 3),
            ]);
        }
        table.push(row);
    }
    table
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
    header.extend(columns.map(|(method, layout)| match layout {
        Layout::Flat => method.to_owned(),
        Layout::Tiles => format!("{method}, tiles"),
    }));
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
