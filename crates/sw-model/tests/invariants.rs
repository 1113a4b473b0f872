//! A row's result is bitwise independent of its neighbours, of where its sequence is cut, of resuming, and of threads;
//! an edit changes what it names and nothing else.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ndarray::{Array2, ArrayViewMut2, Axis};
use proptest::prelude::*;
use sw_model::{
    EditOp, Hook, Input, Linear, LinearAt, Mat, Model, Prefix, Product, Seq, Site, SiteView,
    WeightCoord, WeightEdit,
};

/// Families whose layers differ in what matters here: biases, windows, norms of heads, fused and parallel maps, experts.
const MODELS: [&str; 10] = [
    "llama",
    "mistral",
    "olmo2",
    "olmoe",
    "phi3",
    "qwen3_moe",
    "gemma3_text",
    "gpt_neox",
    "mixtral",
    "pr_moe",
];

fn open(name: &str) -> Model {
    Model::open(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(name),
    )
    .unwrap()
}

fn bits(x: &Array2<f32>) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

fn run(model: &Model, tokens: &[u32]) -> Array2<f32> {
    model.forward(&[Seq::from(tokens)], &mut ()).unwrap()
}

#[test]
fn a_model_for_few_tokens_gives_the_same_rows_but_for_their_last_bits() {
    let tokens: Vec<u32> = (0..20).map(|i| i * 7 % 64).collect();
    for name in MODELS {
        let model = open(name);
        // An expert may have few rows of many.
        let is_dense = !["olmoe", "qwen3_moe", "mixtral", "pr_moe"].contains(&name);
        let pruned = [WeightEdit::prune(WeightCoord::down(0, 2, 7))];
        let model = match is_dense {
            true => model.edited(&pruned).unwrap(),
            false => model,
        };
        let few = model.for_few_tokens();
        for n in [1, 12, 16] {
            let (y, found) = (run(&model, &tokens[..n]), run(&few, &tokens[..n]));
            let largest = |y: &Array2<f32>| y.fold(0.0f32, |max, y| max.max(y.abs()));
            let (error, of) = (largest(&(&found - &y)), largest(&y));
            assert!(error <= 1e-4 * of, "{name}, {n} tokens: {error} of {of}");
        }
        if is_dense {
            assert_eq!(
                bits(&run(&model, &tokens)),
                bits(&run(&few, &tokens)),
                "{name}"
            );
        }
    }
}

fn texts() -> impl Strategy<Value = Vec<Vec<u32>>> {
    prop::collection::vec(prop::collection::vec(0..64_u32, 1..40), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn batching_changes_nothing(texts in texts(), which in 0..MODELS.len()) {
        let model = open(MODELS[which]);
        let seqs: Vec<_> = texts.iter().map(|t| Seq::from(&t[..])).collect();
        let batch = model.forward(&seqs, &mut ()).unwrap();
        let mut first = 0;
        for tokens in &texts {
            let rows = batch.slice_axis(Axis(0), (first..first + tokens.len()).into()).to_owned();
            prop_assert_eq!(bits(&rows), bits(&run(&model, tokens)));
            first += tokens.len();
        }
    }

    #[test]
    fn prefixes_change_nothing(tokens in prop::collection::vec(0..64_u32, 3..70), cuts in (0.0..1.0, 0.0..1.0), which in 0..MODELS.len()) {
        let model = open(MODELS[which]);
        let whole = run(&model, &tokens);
        let at = |share: f64, n: usize| 1 + ((n - 2) as f64 * share) as usize;
        let second = at(cuts.0, tokens.len());
        let prefix = model.prefix(None, &tokens[..second], &mut ()).unwrap();
        let seq = Seq::from(&tokens[second..]).after(&prefix);
        let rest = model.forward(&[seq], &mut ()).unwrap();
        let expected = whole.slice_axis(Axis(0), (second..).into()).to_owned();
        prop_assert_eq!(bits(&rest), bits(&expected));
        // The same through a chain of two prefixes, side by side with another sequence.
        if second >= 2 {
            let first = 1 + ((second - 1) as f64 * cuts.1) as usize;
            if first < second {
                let head = model.prefix(None, &tokens[..first], &mut ()).unwrap();
                let chain = model.prefix(Some(&head), &tokens[first..second], &mut ()).unwrap();
                let other = Seq::from(&tokens[..1]);
                let rest = model.forward(&[other, Seq::from(&tokens[second..]).after(&chain)], &mut ()).unwrap();
                prop_assert_eq!(bits(&rest.slice_axis(Axis(0), (1..).into()).to_owned()), bits(&expected));
                // The same in one pass: two sequences share the chain, which is part of the batch.
                let seqs = [
                    Seq::from(&tokens[..first]),
                    Seq::from(&tokens[first..second]).after(Prefix::Seq(0)),
                    other,
                    Seq::from(&tokens[second..]).after(Prefix::Seq(1)),
                    Seq::from(&tokens[second..]).after(Prefix::Seq(1)),
                ];
                let (rows, kept) = model.extend_first(&seqs, 2, &mut ()).unwrap();
                // Of each sequence only the last row, or those from some token on.
                let last = seqs.map(|seq| seq.wanting_from(seq.tokens.len()));
                let (last, _) = model.extend_first(&last, 2, &mut ()).unwrap();
                let ends = seqs.iter().scan(0, |end, seq| { *end += seq.tokens.len(); Some(*end - 1) });
                let ends: Vec<usize> = ends.collect();
                prop_assert_eq!(bits(&last), bits(&rows.select(Axis(0), &ends)));
                let of = |rows: &Array2<f32>, range: std::ops::Range<usize>| bits(&rows.slice_axis(Axis(0), range.into()).to_owned());
                let n = tokens.len();
                prop_assert_eq!(of(&rows, 0..second), of(&whole, 0..second));
                prop_assert_eq!(of(&rows, second + 1..n + 1), bits(&expected));
                prop_assert_eq!(of(&rows, n + 1..2 * n + 1 - second), bits(&expected));
                prop_assert_eq!(kept.len(), 2);
                let rest = model.forward(&[Seq::from(&tokens[second..]).after(&kept[1])], &mut ()).unwrap();
                prop_assert_eq!(bits(&rest), bits(&expected));
            }
        }
    }
}

#[test]
fn threads_change_nothing() {
    let model = open("llama");
    let tokens: Vec<u32> = (0..60).map(|i| (i * 7 + 3) % 64).collect();
    let expected = bits(&run(&model, &tokens));
    for threads in [1, 2, 3, 7] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        assert_eq!(
            pool.install(|| bits(&run(&model, &tokens))),
            expected,
            "{threads} threads"
        );
    }
}

/// Keeps a copy of one site.
struct Record(Site, Array2<f32>);

impl Hook for Record {
    fn wants(&self, site: Site) -> bool {
        site == self.0
    }
    fn visit(&mut self, _: Site, view: SiteView<'_>) {
        self.1 = view.data.to_owned();
    }
}

#[test]
fn resuming_at_a_layer_changes_nothing() {
    let model = open("llama");
    let tokens = [5, 9, 3, 60, 12];
    let mut record = Record(Site::ResidPre(1), Array2::zeros((0, 0)));
    let expected = model
        .forward(&[Seq::from(&tokens[..])], &mut record)
        .unwrap();
    let resumed = model
        .forward_from(1, record.1, &[tokens.len()], &mut ())
        .unwrap();
    assert_eq!(bits(&resumed), bits(&expected));
}

#[test]
fn a_pruned_weight_is_a_true_zero() {
    let model = open("llama");
    let tokens = [1, 2, 3, 4];
    let coord = WeightCoord::down(0, 2, 7);
    let (mut x, mut y, mut z) = (
        Record(Site::DownIn(0), Array2::zeros((0, 0))),
        Record(Site::DownOut(0), Array2::zeros((0, 0))),
        Record(Site::DownOut(0), Array2::zeros((0, 0))),
    );
    model
        .forward(&[Seq::from(&tokens[..])], &mut (&mut x, &mut y))
        .unwrap();
    let pruned = model.edited(&[WeightEdit::prune(coord)]).unwrap();
    pruned.forward(&[Seq::from(&tokens[..])], &mut z).unwrap();
    let w = model.weight(0, Linear::Down).unwrap();
    for t in 0..tokens.len() {
        for r in 0..w.rows() {
            if r != coord.row {
                assert_eq!(
                    y.1[[t, r]].to_bits(),
                    z.1[[t, r]].to_bits(),
                    "row {r} has nothing to do with the edit"
                );
                continue;
            }
            let exact: f64 = (0..w.cols())
                .filter(|&c| c != coord.col)
                .map(|c| f64::from(x.1[[t, c]]) * f64::from(w.get(r, c)))
                .sum();
            let bias = f64::from(y.1[[t, r]])
                - exact
                - f64::from(x.1[[t, coord.col]]) * f64::from(w.get(r, coord.col));
            assert!((exact + bias - f64::from(z.1[[t, r]])).abs() < 1e-5);
        }
    }
    assert_eq!(pruned.value(coord).unwrap(), 0.0);
    assert_ne!(
        model.value(coord).unwrap(),
        0.0,
        "the original is untouched"
    );
}

#[test]
fn edits_of_one_scalar_apply_in_order() {
    let model = open("llama");
    let coord = WeightCoord {
        linear: Linear::Q,
        ..WeightCoord::down(1, 0, 1)
    };
    let edits = [EditOp::Set(2.0), EditOp::Scale(3.0)].map(|op| WeightEdit { coord, op });
    assert_eq!(model.edited(&edits).unwrap().value(coord).unwrap(), 6.0);
    let twice = model
        .edited(&edits[..1])
        .unwrap()
        .edited(&edits[1..])
        .unwrap();
    assert_eq!(twice.value(coord).unwrap(), 6.0);
}

#[test]
fn a_prefix_of_another_model_is_refused() {
    let model = open("llama");
    let prefix = model.prefix(None, &[1, 2], &mut ()).unwrap();
    let other = model
        .edited(&[WeightEdit::prune(WeightCoord::down(0, 0, 0))])
        .unwrap();
    let error = other
        .forward(&[Seq::from(&[3][..]).after(&prefix)], &mut ())
        .unwrap_err();
    assert!(error.to_string().contains("another model"));
}

#[test]
#[should_panic(expected = "index out of bounds")]
fn a_sequence_follows_an_earlier_one() {
    let own = Seq::from(&[3][..]).after(Prefix::Seq(1));
    let _ = open("llama").forward(&[Seq::from(&[1, 2][..]), own], &mut ());
}

/// Counts the rows that a hook is shown, everywhere or up to attention's output in the last layer.
struct Rows {
    up_to: Option<Site>,
    seen: Vec<(Site, usize)>,
}

impl Hook for Rows {
    fn wants(&self, site: Site) -> bool {
        self.up_to.is_none_or(|only| site == only)
    }

    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        self.seen.push((site, view.data.nrows()));
    }
}

#[test]
fn hooks_see_all_rows_though_few_are_wanted() {
    let model = open("llama");
    let (tokens, last) = ([1, 2, 3, 4, 5], model.spec().layers.len() - 1);
    let whole = run(&model, &tokens);
    for up_to in [
        None,
        Some(Site::OIn(last)),
        Some(Site::DownOut(last)),
        Some(Site::FinalNorm),
    ] {
        let mut rows = Rows {
            up_to,
            seen: Vec::new(),
        };
        let seq = Seq::from(&tokens[..]).wanting_from(3);
        let wanted = model.forward(&[seq], &mut rows).unwrap();
        assert_eq!(bits(&wanted), bits(&whole.select(Axis(0), &[3, 4])));
        assert!(!rows.seen.is_empty() && rows.seen.iter().all(|(_, n)| *n == 5));
    }
}

#[test]
fn scores_agree_with_logits() {
    let model = open("llama");
    let tokens = [5, 9, 3, 60, 12];
    let rows = run(&model, &tokens);
    let logits = model.logits(rows.view()).unwrap();
    let scores = model.score_texts(&[&tokens], &mut ()).unwrap().remove(0);
    for (t, score) in scores.iter().enumerate() {
        let row: Vec<f64> = logits.row(t).iter().map(|&x| f64::from(x)).collect();
        let sum: f64 = row.iter().map(|x| x.exp()).sum();
        let target = tokens[t + 1] as usize;
        assert!((score.log_prob - (row[target] - sum.ln())).abs() < 1e-6);
        assert_eq!(score.greedy, row.iter().all(|&x| x <= row[target]));
    }
}

/// Looks at every site.
struct All;

impl Hook for All {
    fn wants(&self, _: Site) -> bool {
        true
    }
    fn visit(&mut self, _: Site, _: SiteView<'_>) {}
}

#[test]
fn watching_changes_nothing() {
    let tokens: Vec<u32> = (0..60).map(|i| (i * 7 + 3) % 64).collect();
    for name in MODELS {
        let model = open(name);
        let watched = model.forward(&[Seq::from(&tokens[..])], &mut All).unwrap();
        assert_eq!(bits(&watched), bits(&run(&model, &tokens)), "{name}");
    }
}

/// Puts rows at a site.
struct Place(Site, Array2<f32>);

impl Hook for Place {
    fn wants(&self, site: Site) -> bool {
        site == self.0
    }
    fn visit(&mut self, _: Site, mut view: SiteView<'_>) {
        view.data.assign(&self.1);
    }
}

#[test]
fn a_dense_layer_may_follow_a_mixture() {
    // The model has a dense layer and then a mixture; in the other they change places.
    let model = open("qwen3_moe");
    let dir = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/qwen3_moe");
    let config = fs::read_to_string(golden.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["decoder_sparse_step"] = 1.into();
    config["mlp_only_layers"] = vec![1].into();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let mut file = fs::read(golden.join("model.safetensors")).unwrap();
    let header = 8..8 + u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    let names = String::from_utf8(file[header.clone()].to_vec()).unwrap();
    let turned = [
        "layers.0.",
        "layers.x.",
        "layers.1.",
        "layers.0.",
        "layers.x.",
        "layers.1.",
    ];
    let turned = turned
        .chunks(2)
        .fold(names, |names, pair| names.replace(pair[0], pair[1]));
    file[header].copy_from_slice(turned.as_bytes());
    fs::write(dir.path().join("model.safetensors"), file).unwrap();
    let other = Model::open(dir.path()).unwrap();

    let tokens: Vec<u32> = (0..20).map(|i| (i * 7 + 3) % 64).collect();
    let seqs = [Seq::from(&tokens[..])];
    let record = |site| Record(site, Array2::zeros((0, 0)));
    let mut hooks = (record(Site::ResidPre(1)), record(Site::ResidPost(1)));
    other.forward(&seqs, &mut hooks).unwrap();
    let mut same = (
        Place(Site::ResidPre(0), hooks.0.1),
        record(Site::ResidPost(0)),
    );
    model.forward(&seqs, &mut same).unwrap();
    assert_eq!(bits(&same.1.1), bits(&hooks.1.1));
}

/// Multiplies with a matrix, like the one it stands for, and counts who asks.
struct Twin {
    w: Mat,
    in_expert: bool,
    products: Arc<AtomicUsize>,
    inputs: Arc<AtomicUsize>,
    matrices: Arc<AtomicUsize>,
}

impl Product for Twin {
    fn shape(&self) -> [usize; 2] {
        [self.w.rows(), self.w.cols()]
    }

    fn multiply(&self, x: &Input<'_>, y: ArrayViewMut2<'_, f32>) {
        self.products.fetch_add(1, Ordering::Relaxed);
        assert_eq!(x.seqs().is_none(), self.in_expert);
        if let Some(seqs) = x.seqs() {
            let rows: Vec<_> = seqs.iter().map(|seq| seq.rows.clone()).collect();
            assert_eq!(rows, [0..3, 3..5]);
        }
        let copy = x.shared(
            |copy: &Array2<f32>| copy.ncols() == self.w.cols(),
            || {
                self.inputs.fetch_add(1, Ordering::Relaxed);
                x.rows().to_owned()
            },
        );
        sw_tensor::matmul_t(copy.view(), &self.w, y);
    }

    fn matrix(&self) -> Mat {
        self.matrices.fetch_add(1, Ordering::Relaxed);
        self.w.clone()
    }
}

#[test]
fn a_product_stands_in_a_maps_place() {
    for name in MODELS {
        let model = open(name);
        let [products, inputs, matrices] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
        let twin = |at: LinearAt, w: &Mat| {
            let twin: Arc<dyn Product> = Arc::new(Twin {
                w: w.clone(),
                in_expert: at.expert.is_some(),
                products: products.clone(),
                inputs: inputs.clone(),
                matrices: matrices.clone(),
            });
            Ok::<_, sw_model::Error>(Some(twin))
        };
        let other = model.replaced(twin).unwrap();
        let seqs = [Seq::from(&[1, 2, 3][..]), Seq::from(&[4, 5][..])];
        let [expected, found] = [&model, &other].map(|m| m.forward(&seqs, &mut ()).unwrap());
        assert_eq!(bits(&found), bits(&expected), "{name}");
        let dense = model.linears().filter(|at| at.expert.is_none()).count();
        assert!(products.load(Ordering::Relaxed) >= dense, "{name}");
        // What one map makes of its input the others find, which is all but the first of query, key and value, and of gate
        // and up.
        if model.spec().layers.iter().all(|l| l.experts.is_none()) {
            let layers = model.spec().layers.len();
            assert_eq!(inputs.load(Ordering::Relaxed), 4 * layers, "{name}");
        }
        assert_eq!(other.dtype(), model.dtype());
        assert_eq!(matrices.load(Ordering::Relaxed), 0, "nobody asked");
        // Single weights are read from its matrix, which is made once; edits have nothing to edit.
        let at = model.linears().last().unwrap();
        let coord = WeightCoord {
            layer: at.layer,
            linear: at.linear,
            expert: at.expert,
            row: 1,
            col: 2,
        };
        let clone = other.clone();
        assert_eq!(clone.value(coord).unwrap(), model.value(coord).unwrap());
        assert_eq!(other.value(coord).unwrap(), model.value(coord).unwrap());
        assert_eq!(matrices.load(Ordering::Relaxed), 1);
        let refused = other.edited(&[WeightEdit::prune(coord)]);
        let error = refused.map(drop).unwrap_err().to_string();
        assert!(error.contains("edit the model first"), "{error}");
        let narrow = Mat::from_f32(1, 1, vec![0.0]);
        let refused = model.replaced(|_, _| Ok::<_, sw_model::Error>(Some(narrow.clone())));
        let error = refused.map(drop).unwrap_err().to_string();
        assert!(error.contains("a replacement of shape [1, 1]"), "{error}");
    }
}
