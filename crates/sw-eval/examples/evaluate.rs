//! Evaluates a checkpoint and writes lm-eval's files: `evaluate MODEL DATA OUT TASK,... [LIMIT] [BOS] [PLAN.json]`.

use std::{ops::ControlFlow, path::Path};

use sw_eval::{DataDir, EvalResults, Options, Result, evaluate};

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, data, out, tasks, rest @ ..] = &args[..] else {
        return Err("usage: evaluate MODEL DATA OUT TASK,... [LIMIT] [BOS] [PLAN.json]".into());
    };
    let mut options = Options::default();
    options.limit = rest.first().map(|limit| limit.parse()).transpose()?;
    options.bos = rest
        .get(1)
        .map_or(Ok(Default::default()), |bos| bos.parse())?;
    if let Some(plan) = rest.get(2) {
        options.interventions = serde_json::from_str(&std::fs::read_to_string(plan)?)?;
    }
    let tasks: Vec<&str> = tasks.split(',').collect();
    let model = sw_model::Model::open(model)?;
    let mut tenths = 0;
    let mut progress = |status: sw_eval::Status| {
        let now = 10 * status.tokens_done / status.tokens.max(1);
        if now > tenths {
            tenths = now;
            eprintln!("{} of {} requests", status.done, status.total);
        }
        ControlFlow::Continue(())
    };
    let results: Result<EvalResults> = evaluate(
        &model,
        &tasks,
        &DataDir::folder(data),
        &options,
        &mut progress,
    );
    let results = results?;
    results.save(Path::new(out), "example", true)?;
    println!("{:#}", serde_json::Value::Object(results.results()));
    eprintln!(
        "{:.1} s; {:?}",
        results.run().environment.seconds,
        results.run().warnings()
    );
    Ok(())
}
