//! Experts in training: gradients, invariance, resuming, distillation.

mod dice;

use dice::Dice;
use sw_train::checkpoint::{load, load_state, save, save_state};
use sw_train::mixture::Drop;
use sw_train::{
    AdamW, AdamWOptions, Batch, Distill, Experts, IGNORE, Losses, Objective, Params, Part,
    Precision, Routing, Selection, Shape, Tensor, forward, objective_gradient, step,
};

fn shape(experts: Vec<Experts>) -> Shape {
    Shape {
        vocab: 16,
        hidden: 16,
        layers: experts.len().max(2),
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        intermediate: 12,
        max_positions: 8,
        rope_theta: 1e4,
        eps: 1e-5,
        tied: true,
        experts,
    }
}

fn residual(count: usize, per_token: usize) -> Experts {
    Experts {
        residual: true,
        ..Experts::new(count, per_token)
    }
}

/// Counting upwards from a random number; one target is not scored.
fn batch(number: u64) -> Batch {
    let mut dice = Dice::new(number, 1);
    let rows: Vec<Vec<u32>> = (0..6)
        .map(|_| dice.below(16) as u32)
        .map(|s| (0..9).map(|i| (s + i) % 16).collect())
        .collect();
    let inputs = rows.iter().flat_map(|r| r[..8].to_vec()).collect();
    let mut targets: Vec<u32> = rows.iter().flat_map(|r| r[1..].to_vec()).collect();
    targets[11] = IGNORE;
    Batch {
        len: 8,
        inputs,
        targets,
    }
}

fn dropless() -> Routing {
    Routing {
        capacity: None,
        noise: false,
        ..Routing::default()
    }
}

fn losses(params: &Params, objective: &Objective<'_>) -> Losses {
    let none = Selection::none(params.shape());
    objective_gradient(params, &batch(3), 0, objective, &none)
        .unwrap()
        .0
}

/// The gradient of every kind of matrix against differences of the whole loss, at places where no choice changes.
fn check(experts: Vec<Experts>, routing: Routing, teacher: Option<&Params>) {
    let shape = shape(experts);
    let params = Params::random(&shape, 7, 0.5).unwrap();
    let distill = teacher.map(|teacher| Distill {
        teacher,
        weight: 0.7,
        temperature: 2.0,
        until: 1,
    });
    let objective = Objective {
        routing: &routing,
        distill,
    };
    let all = Selection::all(&shape);
    let (base, gradient) = objective_gradient(&params, &batch(3), 0, &objective, &all).unwrap();
    let value = |l: &Losses| l.nll + f64::from(routing.aux) * l.aux() + 0.7 * l.kl;
    let loads = |l: &Losses| {
        l.loads
            .iter()
            .map(|l| (l.choices.clone(), l.dropped))
            .collect::<Vec<_>>()
    };
    let mut dice = Dice::new(1, 1);
    let h = 2e-3f32;
    let (mut compared, mut skipped) = (0, 0);
    for tensor in Tensor::all(&shape) {
        let (rows, cols) = tensor.dim(&shape);
        for _ in 0..8 {
            let at = (dice.below(rows), dice.below(cols));
            let moved = |by: f32| {
                let mut p = params.clone();
                p.get_mut(tensor)[at] += by;
                losses(&p, &objective)
            };
            let near: Vec<Losses> = [h, -h, 2.0 * h, -2.0 * h].map(moved).into();
            if near.iter().any(|l| loads(l) != loads(&base)) {
                skipped += 1;
                continue;
            }
            let v: Vec<f64> = near.iter().map(value).collect();
            let narrow = (v[0] - v[1]) / (2.0 * f64::from(h));
            let wide = (v[2] - v[3]) / (4.0 * f64::from(h));
            // Two tokens may have changed places, which loads do not show: the loss jumps.
            if (narrow - wide).abs() > 1e-2 + 0.1 * narrow.abs() {
                skipped += 1;
                continue;
            }
            compared += 1;
            let slope = (4.0 * narrow - wide) / 3.0;
            let found = f64::from(gradient.get(tensor)[0].1[at]);
            let bound = 3e-4 + 1e-2 * slope.abs();
            assert!(
                (slope - found).abs() < bound,
                "{tensor:?} {at:?}: {found}, differences say {slope}"
            );
        }
    }
    assert!(
        compared > 5 * skipped,
        "{compared} compared, {skipped} skipped"
    );
}

#[test]
fn gradients_agree_with_finite_differences() {
    // The auxiliary loss counts as much as the text's, so that a mistake in it shows.
    let strong = Routing {
        aux: 1.0,
        ..dropless()
    };
    check(vec![Experts::new(4, 1), Experts::new(3, 1)], strong, None);
    check(vec![Experts::new(4, 2), Experts::new(1, 2)], strong, None);
    check(vec![residual(3, 1), residual(4, 1)], strong, None);
    check(vec![residual(3, 2), residual(4, 2)], strong, None);
}

#[test]
fn gradients_agree_where_tokens_are_turned_away_and_a_teacher_helps() {
    let tight = Routing {
        capacity: Some(0.6),
        least: 1,
        aux: 0.5,
        noise: false,
        drop: Drop::Position,
        ..Routing::default()
    };
    let teacher = Params::random(&shape(vec![residual(4, 1); 2]), 1, 0.5).unwrap();
    check(vec![residual(3, 1), residual(4, 1)], tight, Some(&teacher));
    check(
        vec![Experts::new(4, 2), Experts::new(3, 2)],
        tight,
        Some(&teacher),
    );
}

fn train(
    params: &mut Params,
    optimizer: &mut AdamW,
    objective: &Objective<'_>,
    steps: std::ops::Range<usize>,
) -> Losses {
    let all = Selection::all(params.shape());
    let mut last = Losses::default();
    for number in steps {
        let batch = batch(number as u64);
        let found = objective_gradient(params, &batch, number, objective, &all).unwrap();
        step(params, optimizer, found.1, 1.0, 1e-2, number).unwrap();
        last = found.0;
    }
    last
}

fn fresh(shape: &Shape, seed: u64) -> (Params, AdamW) {
    let all = Selection::all(shape);
    (
        Params::random(shape, seed, 0.3).unwrap(),
        AdamW::new(shape, &all, AdamWOptions::default()),
    )
}

#[test]
fn threads_and_resuming_do_not_change_weights() {
    let shape = shape(vec![residual(4, 1), Experts::new(1, 1), residual(3, 1)]);
    let routing = Routing {
        capacity: Some(0.8),
        least: 1,
        ..Routing::default()
    };
    let objective = Objective {
        routing: &routing,
        distill: None,
    };
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let (mut params, mut optimizer) = fresh(&shape, 2);
            let losses = train(&mut params, &mut optimizer, &objective, 0..40);
            (params, losses)
        })
    };
    let ((one, losses), (three, _)) = (run(1), run(3));
    assert_eq!(one, three);
    assert!(losses.nll < 1.0, "loss {} after 40 steps", losses.nll);
    assert!(
        losses.loads.iter().all(|l| l.dropped > 0),
        "{:?}",
        losses.loads
    );
    assert_eq!(
        losses.loads.iter().map(|l| l.layer).collect::<Vec<_>>(),
        [0, 2]
    );

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    let (mut half, mut optimizer) = fresh(&shape, 2);
    train(&mut half, &mut optimizer, &objective, 0..23);
    save_state(&half, &optimizer, 23, &path).unwrap();
    let (mut resumed, mut optimizer) = fresh(&shape, 9);
    let begun = load_state(&mut resumed, &mut optimizer, &path).unwrap();
    train(&mut resumed, &mut optimizer, &objective, begun..40);
    assert_eq!(one, resumed);
}

#[test]
fn a_teacher_counts_until_its_step_and_not_beyond() {
    let shape = shape(vec![residual(4, 1), residual(3, 1)]);
    let routing = Routing::default();
    let teacher = Params::random(&shape, 5, 0.3).unwrap();
    let run = |distill: Option<(usize, f32)>| {
        let distill = distill.map(|(until, weight)| Distill {
            teacher: &teacher,
            weight,
            temperature: 1.0,
            until,
        });
        let objective = Objective {
            routing: &routing,
            distill,
        };
        let (mut params, mut optimizer) = fresh(&shape, 2);
        train(&mut params, &mut optimizer, &objective, 0..12);
        params
    };
    let (none, full) = (run(None), run(Some((usize::MAX, 1.0))));
    assert_ne!(none, full);
    assert_eq!(none, run(Some((0, 1.0))), "until 0");
    assert_eq!(full, run(Some((12, 1.0))), "until the last step");
    let staged = run(Some((6, 1.0)));
    assert!(staged != none && staged != full);
}

#[test]
fn a_student_that_is_its_teacher_learns_nothing_from_it() {
    let shape = shape(vec![Experts::new(4, 1), Experts::new(3, 1)]);
    let params = Params::random(&shape, 5, 0.3).unwrap();
    let routing = dropless();
    let all = Selection::all(&shape);
    let gradient = |distill: Option<Distill<'_>>| {
        let objective = Objective {
            routing: &routing,
            distill,
        };
        objective_gradient(&params, &batch(1), 0, &objective, &all).unwrap()
    };
    let teacher = Distill {
        teacher: &params,
        weight: 3.0,
        temperature: 2.0,
        until: 1,
    };
    let ((plain, a), (taught, b)) = (gradient(None), gradient(Some(teacher)));
    assert_eq!(taught.kl, 0.0);
    assert_eq!(plain.nll, taught.nll);
    for ((_, _, a), (_, _, b)) in a.iter().zip(b.iter()) {
        assert_eq!(a, b);
    }
    // A student that turns tokens away differs from the teacher with its own weights, which never does.
    let tight = Routing {
        capacity: Some(0.3),
        least: 1,
        ..Routing::default()
    };
    let objective = Objective {
        routing: &tight,
        distill: Some(teacher),
    };
    let (losses, _) = objective_gradient(&params, &batch(1), 0, &objective, &all).unwrap();
    assert!(losses.kl > 0.0 && losses.loads.iter().all(|l| l.dropped > 0));

    let other = Params::random(
        &Shape {
            vocab: 17,
            ..shape.clone()
        },
        5,
        0.3,
    )
    .unwrap();
    for (distill, words) in [
        (
            Distill {
                teacher: &other,
                ..teacher
            },
            "17 tokens",
        ),
        (
            Distill {
                temperature: 0.0,
                ..teacher
            },
            "temperature 0",
        ),
    ] {
        let objective = Objective {
            routing: &tight,
            distill: Some(distill),
        };
        let refused = objective_gradient(&params, &batch(1), 0, &objective, &all);
        assert!(refused.unwrap_err().to_string().contains(words));
    }
}

#[test]
fn copied_residual_experts_at_half_and_half_are_the_dense_model() {
    let copied = Experts {
        copied: true,
        ..residual(4, 1)
    };
    let mixed = shape(vec![copied; 2]);
    let dense = Shape {
        experts: vec![],
        ..mixed.clone()
    };
    let one = Params::random(&dense, 3, 0.3).unwrap();
    let mut four = Params::random(&mixed, 3, 0.3).unwrap();
    for l in 0..2 {
        four.get_mut(Tensor::Router(l)).fill(0.0);
        four.get_mut(Tensor::Mix(l)).fill(0.0);
        // Every probability is 1/4: with outputs four times as large the expert counts as if it were certain.
        for e in 0..4 {
            *four.get_mut(Tensor::Expert(l, e, Part::Down)) *= 4.0;
        }
    }
    let [a, b] = [&one, &four].map(|p| forward(p, &batch(1)).unwrap().logits);
    let worst = (&a - &b).iter().fold(0.0f32, |w, d| w.max(d.abs()));
    let size = a.iter().fold(0.0f32, |w, d| w.max(d.abs()));
    assert!(worst < 1e-5 * size.max(1.0), "{worst} of {size}");
}

#[test]
fn checkpoints_open_in_sw_model_with_the_trainers_logits() {
    let dir = tempfile::tempdir().unwrap();
    for (family, experts) in [
        ("llama", vec![]),
        ("mixtral", vec![Experts::new(4, 2); 2]),
        ("pr_moe", vec![Experts::new(4, 1); 2]),
        ("pr_moe", vec![Experts::new(4, 2), Experts::new(3, 2)]),
        (
            "pr_moe",
            vec![residual(2, 1), Experts::new(1, 1), residual(4, 1)],
        ),
        ("pr_moe", vec![residual(4, 2), residual(4, 2)]),
    ] {
        let shape = shape(experts);
        let mut params = Params::random(&shape, 11, 0.3).unwrap();
        for l in (0..shape.layers).filter(|&l| shape.mixture(l).is_some_and(|e| e.residual)) {
            params.get_mut(Tensor::MixBias(l))[(0, 0)] = 0.7;
        }
        save(&params, Precision::F32, dir.path()).unwrap();
        assert_eq!(load(&shape, dir.path()).unwrap(), params);
        let model = sw_model::Model::open(dir.path()).unwrap();
        assert_eq!(model.spec().family, family);
        assert_eq!(model.parameters(), params.count());
        assert!(model.warnings().is_empty(), "{:?}", model.warnings());
        let batch = batch(2);
        let ours = forward(&params, &batch).unwrap().logits;
        let seqs: Vec<_> = batch.inputs.chunks(8).map(sw_model::Seq::from).collect();
        let rows = model.forward(&seqs, &mut ()).unwrap();
        let theirs = model.logits(rows.view()).unwrap();
        let worst = (&ours - &theirs).iter().fold(0.0f32, |w, d| w.max(d.abs()));
        assert!(worst < 1e-4, "{family}: logits differ by {worst}");
    }
}
