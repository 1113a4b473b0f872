//! Learning whether to grow: what the projection promises, what the angle says, who decides what.

mod dice;
mod slopes;

use dice::Dice;
use ndarray::{Array2, ArrayView2, Axis, s};
use slopes::{check_gradient, normals};
use sw_train::Result;
use sw_train::grow::{
    Controlled, ControlledOptions, Encoder, Hindrance, Learner, Optimiser, Policy, Projection,
    Recipe, Samples, Split, Subspace, TaskSpec, hindrance, null_angle,
};

/// The projection onto a space, `[dim, dim]`.
fn projection(space: &Subspace) -> Array2<f64> {
    space.inside(Array2::eye(space.dim()).view())
}

fn largest(m: &Array2<f64>) -> f64 {
    m.iter().fold(0.0, |a, v| a.max(v.abs()))
}

/// A space that holds some random features.
fn random_space(dice: &mut Dice, dim: usize, rank: usize) -> Subspace {
    let mut space = Subspace::empty(dim);
    space
        .extend(normals(dice, (rank, dim)).view(), 1.0)
        .unwrap();
    space
}

#[test]
fn spaces_are_orthonormal_and_projections_are_projections() {
    let mut dice = Dice::new(1, 0);
    let dim = 12;
    let mut space = Subspace::empty(dim);
    for round in 0..8 {
        // From the fourth round on there is nothing left to add.
        let features = normals(&mut dice, (4, dim));
        let added = space.extend(features.view(), 1.0).unwrap();
        assert_eq!(added, if round < 3 { 4 } else { 0 });
        assert_eq!(space.rank(), (4 * (round + 1)).min(dim));
        let b = space.basis();
        let m = projection(&space);
        assert!(largest(&(b.t().dot(&b) - Array2::<f64>::eye(space.rank()))) < 1e-10);
        assert!(largest(&(m.dot(&m) - &m)) < 1e-10);
        assert!(largest(&(&m.t() - &m)) < 1e-10);
        assert!((m.diag().sum() - space.rank() as f64).abs() < 1e-10);
        assert!(space.energy(features.view()).unwrap() > 1.0 - 1e-10);
    }
}

#[test]
fn a_space_holds_the_energy_it_was_asked_for_and_no_vector_too_many() {
    let mut dice = Dice::new(2, 0);
    let scales = Array2::from_shape_fn((1, 10), |(_, j)| 0.7f64.powi(j as i32));
    for energy in [0.5, 0.9, 0.95, 0.99] {
        let features = normals(&mut dice, (200, 10)) * &scales;
        let mut space = Subspace::empty(10);
        space.extend(features.view(), energy).unwrap();
        assert!(space.energy(features.view()).unwrap() >= energy);
        // Without its last vector it holds less than that.
        let fewer = space.basis().slice(s![.., ..space.rank() - 1]).to_owned();
        let inside = features.dot(&fewer).mapv(|v| v * v).sum();
        assert!(inside / features.mapv(|v| v * v).sum() < energy);

        // Other features: what is inside counts, what is missing is added.
        let more = normals(&mut dice, (200, 10));
        let before = space.clone();
        let added = space.extend(more.view(), energy).unwrap();
        assert!(added > 0 && space.energy(more.view()).unwrap() >= energy);
        let kept = space.basis().slice(s![.., ..before.rank()]).to_owned();
        assert_eq!(kept, before.basis());
    }
    let mut space = Subspace::empty(10);
    assert_eq!(
        space.extend(Array2::zeros((3, 10)).view(), 0.95).unwrap(),
        0
    );
    for (bad, energy) in [
        (Array2::zeros((3, 9)), 0.9),
        (Array2::from_elem((1, 10), f64::NAN), 0.9),
        (Array2::ones((1, 10)), 0.0),
        (Array2::ones((1, 10)), 1.1),
    ] {
        assert!(space.extend(bad.view(), energy).is_err());
    }
}

/// The order of samples is nothing to a space of channels; the order of channels is.
#[test]
fn spaces_are_of_channels_not_of_samples() {
    let mut dice = Dice::new(3, 0);
    let features = normals(&mut dice, (5, 9));
    let space = |features: ArrayView2<f64>| {
        let mut space = Subspace::empty(9);
        space.extend(features, 0.9).unwrap();
        projection(&space)
    };
    let whole = space(features.view());
    let samples = features.select(Axis(0), &[3, 0, 4, 2, 1]);
    assert!(largest(&(space(samples.view()) - &whole)) < 1e-10);
    let order = [4, 8, 0, 2, 6, 1, 3, 7, 5];
    let channels = features.select(Axis(1), &order);
    let moved = whole.select(Axis(0), &order).select(Axis(1), &order);
    assert!(largest(&(space(channels.view()) - &moved)) < 1e-10);
    assert!(largest(&(space(channels.view()) - &whole)) > 0.1);
}

#[test]
fn angles_are_what_they_are_drawn_as() {
    let mut dice = Dice::new(4, 0);
    let space = random_space(&mut dice, 16, 5);
    let mut inside = space.inside(normals(&mut dice, (1, 16)).view());
    let mut outside = normals(&mut dice, (1, 16));
    space.take_out(&mut outside, 1.0);
    for part in [&mut inside, &mut outside] {
        *part /= part.mapv(|v| v * v).sum().sqrt();
    }
    let degrees = |g: &Array2<f64>| hindrance(g.view(), &space).unwrap().degrees;
    assert!((degrees(&inside) - 90.0).abs() < 1e-6);
    assert!(degrees(&outside).abs() < 1e-6);
    for angle in [0.001f64, 30.0, 45.0, 89.999] {
        let (sin, cos) = angle.to_radians().sin_cos();
        let g = (&inside * sin + &outside * cos) * 3e-5;
        assert!((degrees(&g) - angle).abs() < 1e-6, "{angle}");
    }
    // The mean over rows, without those that are zero.
    let mut rows = Array2::zeros((3, 16));
    rows.row_mut(0).assign(&inside.row(0));
    rows.row_mut(2).assign(&outside.row(0));
    assert!((degrees(&rows) - 45.0).abs() < 1e-6);
    for bad in [
        Array2::zeros((2, 16)),
        Array2::zeros((2, 15)),
        Array2::from_elem((1, 16), f64::INFINITY),
    ] {
        let error = hindrance(bad.view(), &space).unwrap_err().to_string();
        assert!(error.contains("gradient"), "{error}");
    }
}

#[test]
fn a_random_gradient_has_the_null_angle() {
    let mut dice = Dice::new(5, 0);
    for (dim, rank) in [(8, 1), (12, 3), (12, 10)] {
        let squares: Vec<f64> = (0..120)
            .map(|_| {
                let space = random_space(&mut dice, dim, rank);
                let g = normals(&mut dice, (1, dim));
                let Hindrance { degrees, null } = hindrance(g.view(), &space).unwrap();
                assert_eq!(null, null_angle(rank, dim));
                degrees.to_radians().sin().powi(2)
            })
            .collect();
        let n = squares.len() as f64;
        let mean = squares.iter().sum::<f64>() / n;
        let variance = squares.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let expected = null_angle(rank, dim).to_radians().sin().powi(2);
        assert!((expected - rank as f64 / dim as f64).abs() < 1e-12);
        assert!(
            (mean - expected).abs() < 3.0 * (variance / n).sqrt(),
            "{dim} {rank}: {mean}"
        );
    }
}

/// Few samples of clean tasks, so that the tests take a moment.
fn small() -> ControlledOptions {
    ControlledOptions {
        train: 40,
        test: 30,
        noise: 0.0,
        orthogonal: true,
        ..ControlledOptions::default()
    }
}

fn test_samples(task: usize) -> Samples {
    Samples {
        task,
        split: Split::Test,
        count: 30,
    }
}

/// How far the logits of the first task's classes move while the second is learned in the same set.
fn moved(optimiser: Optimiser, projection: Projection, project: bool) -> f64 {
    let tasks = TaskSpec::groups(2, 1, 1.0, false);
    // One direction shared with the first task, so that there is something to project away.
    let tasks = [
        tasks[0],
        TaskSpec {
            overlap: 0.5,
            group: 0,
            ..tasks[1]
        },
    ];
    let encoder = Controlled::new(1, &tasks, &small()).unwrap();
    let recipe = Recipe {
        policy: Policy::Never { project },
        energy: 1.0,
        optimiser,
        projection,
        steps: 40,
        ..Recipe::default()
    };
    let mut learner = Learner::new(&encoder, recipe).unwrap();
    let logits = |learner: &Learner<Controlled>| {
        let classes = encoder.classes_of(0);
        let head = learner.head().select(Axis(0), classes);
        encoder
            .forward(test_samples(0), &learner.sets()[0].prompt, &head, classes)
            .0
    };
    learner.learn(0).unwrap();
    assert!(learner.sets()[0].space.rank() < 48);
    let before = logits(&learner);
    let prompt = learner.sets()[0].prompt.clone();
    learner.learn(1).unwrap();
    assert!(
        largest(&(&learner.sets()[0].prompt - &prompt)) > 0.01,
        "nothing was learned"
    );
    largest(&(logits(&learner) - before))
}

#[test]
fn old_answers_stay_unless_adam_comes_after_the_projection() {
    let (sgd, adam) = (Optimiser::Sgd { rate: 2.0 }, Optimiser::Adam { rate: 0.05 });
    assert!(moved(sgd, Projection::Gradient, true) < 1e-5);
    assert!(moved(sgd, Projection::Update, true) < 1e-5);
    assert!(moved(adam, Projection::Update, true) < 1e-5);
    assert!(moved(adam, Projection::Gradient, true) > 1e-2);
    assert!(moved(sgd, Projection::Gradient, false) > 1e-2);
}

fn learned(tasks: &[TaskSpec], options: &ControlledOptions, recipe: Recipe) -> Vec<(usize, f64)> {
    let encoder = Controlled::new(3, tasks, options).unwrap();
    let mut learner = Learner::new(&encoder, recipe).unwrap();
    for task in 0..tasks.len() {
        learner.learn(task).unwrap();
    }
    let angle = |l: &sw_train::grow::Learned| {
        let degrees = l.hindrances.iter().map(|h| h.degrees);
        (l.set, degrees.fold(f64::INFINITY, f64::min))
    };
    learner.learned().iter().map(angle).collect()
}

#[test]
fn clean_keys_that_share_nothing_do_not_hinder_and_equal_ones_hinder_wholly() {
    let recipe = Recipe {
        energy: 1.0 - 1e-9,
        steps: 20,
        ..Recipe::default()
    };
    // A space of pre-training in which not all energy is needed, so that its own angle is neither 0 nor 90.
    let options = ControlledOptions {
        decay: 40.0,
        ..small()
    };
    let unlike = learned(&TaskSpec::unlike(2), &options, recipe);
    assert!(unlike[1].1 < 1e-6, "{unlike:?}");
    assert_eq!(unlike[1].0, 0);
    for opposite in [false, true] {
        let like = learned(&TaskSpec::groups(1, 2, 1.0, opposite), &options, recipe);
        assert!((like[1].1 - 90.0).abs() < 1e-3, "{like:?}");
        assert_eq!(like[1].0, 1);
    }
}

#[test]
fn policies_read_angles_as_they_say() {
    let angles = [70.0, 40.0, 40.0, 60.0];
    assert_eq!(Policy::Hindrance.by_angle(&angles, 41.0), Some(1));
    assert_eq!(Policy::Hindrance.by_angle(&angles, 39.0), None);
    assert_eq!(Policy::Affinity.by_angle(&angles, 65.0), Some(0));
    assert_eq!(Policy::Affinity.by_angle(&angles, 75.0), None);
    assert_eq!(Policy::Hindrance.by_angle(&[], 75.0), None);
    assert_eq!(Policy::Always.by_angle(&angles, 90.0), None);
}

#[test]
fn policies_make_the_sets_they_promise() {
    let tasks = TaskSpec::groups(2, 2, 1.0, true);
    let options = ControlledOptions {
        noise: 0.1,
        ..small()
    };
    let sets = |policy| {
        let recipe = Recipe {
            policy,
            steps: 25,
            ..Recipe::default()
        };
        let learned = learned(&tasks, &options, recipe);
        learned.iter().map(|l| l.0).collect::<Vec<_>>()
    };
    assert_eq!(sets(Policy::Always), [0, 1, 2, 3]);
    assert_eq!(sets(Policy::Never { project: true }), [0; 4]);
    assert_eq!(sets(Policy::Never { project: false }), [0; 4]);
    // Two groups of two tasks that want opposite prompts: four kinds.
    assert_eq!(sets(Policy::Oracle), [0, 1, 2, 3]);
    let same = TaskSpec::groups(2, 2, 1.0, false);
    let recipe = Recipe {
        policy: Policy::Oracle,
        steps: 1,
        ..Recipe::default()
    };
    let learned = learned(&same, &options, recipe);
    assert_eq!(
        learned.iter().map(|l| l.0).collect::<Vec<_>>(),
        [0, 1, 0, 1]
    );
    // A fresh set is never better by so many nats; it is always better by more than minus as many.
    for (tolerance, expected) in [(1e3, [0; 4]), (-1e3, [0, 1, 2, 3])] {
        let found = sets(Policy::Probe {
            steps: 1,
            tolerance,
        });
        assert_eq!(found, expected);
    }
}

fn run(seed: u64) -> Result<(Vec<Array2<f64>>, Array2<f64>, String)> {
    let tasks = TaskSpec::groups(2, 2, 0.5, false);
    let encoder = Controlled::new(
        seed,
        &tasks,
        &ControlledOptions {
            noise: 0.15,
            ..small()
        },
    )?;
    let recipe = Recipe {
        seed,
        steps: 10,
        ..Recipe::default()
    };
    let mut learner = Learner::new(&encoder, recipe)?;
    for task in 0..4 {
        learner.learn(task)?;
    }
    let prompts = learner.sets().iter().map(|s| s.prompt.clone()).collect();
    let scores = learner.scores()?;
    assert_eq!(
        scores.retrieval_by_chance,
        1.0 / learner.sets().len() as f64
    );
    assert_eq!(scores.sets, learner.sets().len());
    Ok((prompts, learner.head().clone(), format!("{scores:?}")))
}

#[test]
fn equal_seeds_give_equal_bits_on_any_thread() {
    let here = run(5).unwrap();
    let there: Vec<_> = (0..3)
        .map(|_| std::thread::spawn(|| run(5).unwrap()))
        .collect();
    for other in there {
        assert!(other.join().unwrap() == here);
    }
    assert!(run(6).unwrap().1 != here.1);
}

#[test]
fn gradients_agree_with_finite_differences() {
    let tasks = TaskSpec::unlike(2);
    let encoder = Controlled::new(
        2,
        &tasks,
        &ControlledOptions {
            noise: 0.3,
            ..small()
        },
    )
    .unwrap();
    check_gradient(&encoder, 1e-7);
}

#[test]
fn bad_recipes_are_refused() {
    let options = small();
    let refused = |tasks: &[TaskSpec], options| Controlled::new(1, tasks, &options).is_err();
    assert!(refused(&[], options));
    assert!(refused(
        &[TaskSpec {
            overlap: 1.5,
            ..TaskSpec::unlike(1)[0]
        }],
        options
    ));
    assert!(refused(
        &TaskSpec::unlike(1),
        ControlledOptions { dim: 5, ..options }
    ));
    assert!(refused(
        &TaskSpec::unlike(1),
        ControlledOptions {
            train: 0,
            ..options
        }
    ));
    let encoder = Controlled::new(1, &TaskSpec::unlike(2), &options).unwrap();
    for recipe in [
        Recipe {
            steps: 0,
            ..Recipe::default()
        },
        Recipe {
            subset: 0,
            ..Recipe::default()
        },
        Recipe {
            soft: 2.0,
            ..Recipe::default()
        },
        Recipe {
            energy: 0.0,
            ..Recipe::default()
        },
    ] {
        assert!(Learner::new(&encoder, recipe).is_err());
    }
    let mut learner = Learner::new(
        &encoder,
        Recipe {
            optimiser: Optimiser::Sgd {
                rate: f64::INFINITY,
            },
            ..Recipe::default()
        },
    )
    .unwrap();
    assert!(learner.scores().is_err());
    assert!(learner.learn(1).unwrap_err().to_string().contains("task 1"));
    assert!(
        learner
            .learn(0)
            .unwrap_err()
            .to_string()
            .contains("not finite")
    );
}
