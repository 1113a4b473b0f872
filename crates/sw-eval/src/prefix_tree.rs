//! What to compute for a set of spans: shared beginnings once, in the form of a tree.
//!
//! Spans are sorted by their tokens; neighbours that begin alike share a [`Node`], whose keys and values are computed
//! once; what is left of each span is a [`Leaf`].

use std::ops::Range;

use crate::model::Span;

/// A beginning that several spans share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// The beginning of this beginning.
    pub(crate) parent: Option<usize>,
    /// A span that begins with it.
    pub(crate) span: usize,
    /// The first of its tokens, after the parent's; a place in the span.
    pub(crate) start: usize,
    /// The place in the span after its last token.
    pub(crate) end: usize,
    /// The first place whose row predicts a scored token of a span that begins with it; `end` where none does.
    pub(crate) scored: usize,
    /// One after the last leaf below it.
    pub(crate) last_leaf: usize,
}

/// What is left of a span after its shared beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// The span.
    pub(crate) span: usize,
    /// Its shared beginning.
    pub(crate) node: Option<usize>,
    /// Tokens of the shared beginning.
    pub(crate) start: usize,
}

impl Leaf {
    /// All of a span, without a shared beginning.
    pub(crate) fn whole(span: usize) -> Self {
        Self {
            span,
            node: None,
            start: 0,
        }
    }
}

/// A tree over spans. Nodes stand after their parents, leaves in the order of their tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct PrefixTree {
    pub(crate) nodes: Vec<Node>,
    pub(crate) leaves: Vec<Leaf>,
}

impl PrefixTree {
    /// A plan without sharing: the spans in order.
    pub(crate) fn flat(spans: &[Span]) -> Self {
        let leaves = (0..spans.len()).map(Leaf::whole).collect();
        Self {
            nodes: Vec::new(),
            leaves,
        }
    }

    /// A plan that computes what several spans begin with once.
    pub(crate) fn new(spans: &[Span]) -> Self {
        let mut order: Vec<usize> = (0..spans.len()).collect();
        order.sort_by(|&a, &b| spans[a].cmp(&spans[b]));
        let common: Vec<usize> = order
            .windows(2)
            .map(|w| begin_alike(&spans[w[0]].tokens, &spans[w[1]].tokens))
            .collect();
        let mut plan = Self::default();
        // Ranges of `order` still to be split, last first; each with its node and that node's depth.
        let mut ranges = vec![(0..order.len(), None, 0)];
        while let Some((range, parent, depth)) = ranges.pop() {
            if range.len() < 2 {
                plan.leaves.extend(range.map(|i| Leaf {
                    span: order[i],
                    node: parent,
                    start: depth,
                }));
                continue;
            }
            let inner = &common[range.start..range.end - 1];
            let shortest = inner.iter().copied().min().unwrap_or(0);
            // The last token of a span is not read.
            let of_range = order[range.clone()].iter().map(|&span| &spans[span]);
            let read = of_range.clone().map(|span| span.tokens.len() - 1);
            let end = read.min().unwrap_or(0).min(shortest);
            let (node, depth) = if end > depth {
                let scored = of_range.map(|span| span.from - 1).min();
                let last_leaf = plan.leaves.len() + range.len();
                plan.nodes.push(Node {
                    parent,
                    span: order[range.start],
                    start: depth,
                    end,
                    scored: scored.unwrap_or(end).clamp(depth, end),
                    last_leaf,
                });
                (Some(plan.nodes.len() - 1), end)
            } else {
                (parent, depth)
            };
            let mut stop = range.end;
            for i in (0..inner.len()).rev().filter(|&i| inner[i] == shortest) {
                ranges.push((range.start + i + 1..stop, node, depth));
                stop = range.start + i + 1;
            }
            ranges.push((range.start..stop, node, depth));
        }
        plan
    }

    /// Tokens to compute.
    pub(crate) fn tokens(&self, spans: &[Span]) -> usize {
        let nodes: usize = self.nodes.iter().map(|n| n.end - n.start).sum();
        let leaves: usize = self
            .leaves
            .iter()
            .map(|l| spans[l.span].tokens.len() - 1 - l.start)
            .sum();
        nodes + leaves
    }

    /// Leaves in batches of at most `budget` tokens, with the nodes that no batch before has; one leaf at least. Where there are
    /// several, there are as many for each of `lanes`, and about as large: no lane waits long for another at the end. A batch ends
    /// where the next one shares least with it: a lane that did not run the batch in which a node came first computes it once more.
    pub(crate) fn batches(&self, spans: &[Span], budget: usize, lanes: usize) -> Vec<Range<usize>> {
        let before = self.tokens_before(spans);
        let (leaves, total) = (self.leaves.len(), self.tokens(spans));
        let count = match total.div_ceil(budget) {
            0 | 1 => 1,
            several => several.next_multiple_of(lanes),
        };
        let (mut batches, mut start) = (Vec::new(), 0);
        while start < leaves {
            // Its share of all tokens, and how far from it the end of a batch may lie without any other reason.
            let (share, about) = (total * (batches.len() + 1) / count, budget / 8);
            let most = before[start + 1].max(before[start] + budget);
            let ends = (start + 1..=leaves).take_while(|&end| before[end] <= most);
            // A leaf of which nothing is left stays with the one before it: a batch has something to run.
            let begins = |leaf: &usize| {
                before
                    .get(leaf + 1)
                    .is_none_or(|&after| after > before[*leaf])
            };
            let end = ends.filter(begins).min_by_key(|&end| {
                let away = before[end].abs_diff(share);
                (away.saturating_sub(about), self.shared(end), away)
            });
            let end = end.unwrap_or(leaves);
            batches.push(start..end);
            start = end;
        }
        batches
    }

    /// For each leaf, and for what comes after the last, the tokens of the leaves before it with their nodes.
    fn tokens_before(&self, spans: &[Span]) -> Vec<usize> {
        let (mut seen, mut tokens) = (0, 0);
        let up_to = self.leaves.iter().map(|leaf| {
            // Nodes that come between two leaves begin with the second one.
            let until = leaf.node.map_or(seen, |n| seen.max(n + 1));
            let new = self.nodes[seen..until].iter().map(|n| n.end - n.start);
            tokens += new.sum::<usize>() + spans[leaf.span].tokens.len() - 1 - leaf.start;
            seen = until;
            tokens
        });
        std::iter::once(0).chain(up_to).collect()
    }

    /// Tokens of the nodes that the leaf with this index, not the first, shares with the one before it; none after the last.
    fn shared(&self, leaf: usize) -> usize {
        let Some(next) = self.leaves.get(leaf) else {
            return 0;
        };
        let (mut a, mut b) = (self.leaves[leaf - 1].node, next.node);
        // A parent has a smaller index than its children, and `None` is less than any: both ways end at the last node they share.
        while a != b {
            let deeper = if a > b { &mut a } else { &mut b };
            *deeper = deeper.and_then(|n| self.nodes[n].parent);
        }
        a.map_or(0, |n| self.nodes[n].end)
    }
}

fn begin_alike(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(tokens: &[u32], from: usize) -> Span {
        Span {
            tokens: tokens.to_vec(),
            from,
        }
    }

    /// The tokens a leaf's chain of nodes stands for.
    fn chain(plan: &PrefixTree, spans: &[Span], node: Option<usize>) -> Vec<u32> {
        let Some(node) = node.map(|n| &plan.nodes[n]) else {
            return Vec::new();
        };
        let mut tokens = chain(plan, spans, node.parent);
        assert_eq!(tokens.len(), node.start);
        tokens.extend(&spans[node.span].tokens[node.start..node.end]);
        tokens
    }

    fn check(spans: &[Span]) -> PrefixTree {
        let plan = PrefixTree::new(spans);
        let mut seen = vec![false; spans.len()];
        for (i, leaf) in plan.leaves.iter().enumerate() {
            let span = &spans[leaf.span];
            assert!(
                !std::mem::replace(&mut seen[leaf.span], true),
                "every span once"
            );
            assert_eq!(chain(&plan, spans, leaf.node), span.tokens[..leaf.start]);
            let mut node = leaf.node;
            while let Some(n) = node {
                assert!(i < plan.nodes[n].last_leaf);
                let places = plan.nodes[n].start..plan.nodes[n].end;
                let is_scored = |&place: &usize| place + 1 >= span.from;
                let scored = places.clone().find(is_scored).unwrap_or(places.end);
                assert!(plan.nodes[n].scored <= scored, "rows that the span needs");
                assert!(plan.nodes[n].parent.is_none_or(|p| p < n));
                node = plan.nodes[n].parent;
            }
        }
        assert!(seen.into_iter().all(|s| s));
        plan
    }

    #[test]
    fn choices_share_their_question() {
        let question: Vec<u32> = (0..40).collect();
        let choice = |end: &[u32]| span(&[&question, end].concat(), 40);
        let spans = [
            choice(&[7, 8]),
            choice(&[7, 9, 1]),
            choice(&[5]),
            span(&[100, 101, 102], 1),
        ];
        let plan = check(&spans);
        // The question, and the token with which two choices begin.
        let places = |node: &Node| (node.start, node.scored, node.end);
        assert!(
            plan.nodes
                .iter()
                .map(places)
                .eq([(0, 39, 40), (40, 40, 41)])
        );
        assert_eq!(plan.tokens(&spans), 40 + 1 + 1 + 2);
        assert_eq!(PrefixTree::flat(&spans).tokens(&spans), 41 + 42 + 40 + 2);
    }

    #[test]
    fn headers_and_questions_nest() {
        let header: Vec<u32> = (0..50).collect();
        let spans: Vec<Span> = (0..6)
            .map(|i| {
                let question: Vec<u32> = (0..20).map(|t| 1000 * (1 + i / 3) + t).collect();
                span(&[&header[..], &question, &[i], &[9]].concat(), 70)
            })
            .collect();
        let plan = check(&spans);
        assert_eq!(
            plan.nodes
                .iter()
                .map(|n| (n.start, n.end))
                .collect::<Vec<_>>(),
            [(0, 50), (50, 70), (50, 70)]
        );
    }

    #[test]
    fn shared_beginnings_of_a_batch_count_though_nothing_is_left_of_their_spans() {
        let spans: Vec<Span> = (0..20u32)
            .map(|i| {
                let question: Vec<u32> = (0..40).map(|t| 100 * (i / 2) + t).collect();
                span(&[&question[..], &[7 + i % 2]].concat(), 40)
            })
            .collect();
        let plan = check(&spans);
        assert_eq!((plan.nodes.len(), plan.tokens(&spans)), (10, 400));
        let of_questions = |n: usize| (0..10).step_by(n).map(move |i| 2 * i..20.min(2 * (i + n)));
        assert!(plan.batches(&spans, 20, 1).into_iter().eq(of_questions(1)));
        assert!(
            plan.batches(&spans, 120, 1)
                .into_iter()
                .eq([0..4, 4..10, 10..14, 14..20])
        );
    }

    #[test]
    fn a_batch_ends_where_the_next_one_shares_least_with_it() {
        // Thirteen documents of 130 tokens, a question of 90 and four answers of 10: some shares end within one.
        let spans: Vec<Span> = (0..52u32)
            .map(|i| {
                let question = (0..90).map(|t| 1000 * (i / 4) + t);
                let answer = (0..11).map(|t| 100_000 + 100 * i + t);
                span(&question.chain(answer).collect::<Vec<_>>(), 90)
            })
            .collect();
        let plan = check(&spans);
        assert_eq!(plan.tokens(&spans), 13 * 130);
        for lanes in [1, 2, 3] {
            for batch in plan.batches(&spans, 560, lanes) {
                assert!(batch.start % 4 == 0 && batch.end % 4 == 0, "{batch:?}");
            }
        }
    }

    #[test]
    fn lanes_get_as_many_batches_of_one_size() {
        let spans: Vec<Span> = (0..21).map(|i| span(&[i; 11], 1)).collect();
        let plan = PrefixTree::flat(&spans);
        let tokens = |budget, lanes| -> Vec<usize> {
            let batches = plan.batches(&spans, budget, lanes);
            batches.into_iter().map(|b| 10 * b.len()).collect()
        };
        assert_eq!(tokens(300, 2), [210]);
        assert_eq!(tokens(200, 2), [100, 110]);
        assert_eq!(tokens(100, 1), [70, 70, 70]);
        assert_eq!(tokens(100, 2), [50, 50, 60, 50]);
    }

    proptest! {
        #[test]
        fn any_spans_are_covered(raw in prop::collection::vec((prop::collection::vec(0u32..3, 2..40), 0usize..40), 0..40), budget in 1usize..100, lanes in 1usize..4) {
            let spans: Vec<Span> = raw.into_iter().map(|(tokens, from)| { let from = 1 + from % (tokens.len() - 1); Span { tokens, from } }).collect();
            let plan = check(&spans);
            prop_assert!(plan.tokens(&spans) <= PrefixTree::flat(&spans).tokens(&spans));
            let batches = plan.batches(&spans, budget, lanes);
            prop_assert_eq!(batches.iter().map(|b| b.len()).sum::<usize>(), spans.len());
            let mut seen = 0;
            for batch in &batches {
                let leaves = &plan.leaves[batch.clone()];
                let until = leaves.iter().filter_map(|l| l.node).map(|n| n + 1).fold(seen, usize::max);
                let new: usize = plan.nodes[seen..until].iter().map(|n| n.end - n.start).sum();
                let own: usize = leaves.iter().map(|l| spans[l.span].tokens.len() - 1 - l.start).sum();
                seen = until;
                prop_assert!(new + own > 0, "a batch without tokens");
                prop_assert!(new + own <= budget || leaves.iter().filter(|l| spans[l.span].tokens.len() - 1 > l.start).count() <= 1);
            }
            for pair in batches.windows(2) { prop_assert_eq!(pair[0].end, pair[1].start); }
        }
    }
}
