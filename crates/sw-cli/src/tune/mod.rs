//! `sw tune`: fine-tuning of a checkpoint.

mod data;
mod run;
mod state;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use sw_model::{Linear, Model, WeightCoord};
use sw_tensor::files::NewFolder;
use sw_train::{
    tiles::{TileScore, TileSelection},
    tune::{Budget, Change, PromptInit, PromptOptions, TileOptions, Warmup},
};

use crate::{args::ModelArgs, program::tell};

/// Fine-tune a checkpoint: chosen tiles (Sparse Matrix Tuning), LoRA, DoRA, a soft prompt, or every weight.
///
/// Models are those whose layers are RMSNorm, rotary attention and SwiGLU: Llama 1 to 3, SmolLM2, Mistral, Qwen2. Data are plain
/// text (.txt), rows with a "text", or rows with a "prompt" and a "completion", of which only completions are learned (.jsonl,
/// .json.gz, .parquet). The run keeps its state in OUT.state: killed at any moment and started again with the same arguments,
/// it goes on where it last saved, and comes to the same weights.
///
/// What is written:
///   smt         selection.json and tiles.safetensors: which tiles, and their values
///   lora, dora  an adapter as PEFT has it
///   prompt      a soft prompt as PEFT has it, which changes no weight
///   full        a checkpoint
/// With --write checkpoint all of them but prompt write a checkpoint. sw eval, sw detect and others take tiles and adapters as
/// --adapter OUT; sw eval and sw generate take soft prompts, too.
///
/// Examples:
///   sw tune MODEL --method smt --data stories.txt --out OUT
///   sw tune MODEL --method lora --rank 8 --data pairs.jsonl --length 512 --rate 3e-4 --out OUT
///   sw tune MODEL --method prompt --prompt-text "Continue the story:" --rate 0.03 --data stories.txt --out OUT
///   sw tune MODEL --method full --freeze-super-weights --data texts.parquet --rate 1e-5 --out OUT
///   sw tune MODEL --merge OUT --out MERGED
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Tune {
    #[command(flatten)]
    model: ModelArgs,
    /// What is trained
    #[arg(long, value_enum, required_unless_present = "merge")]
    method: Option<MethodName>,
    /// Texts to learn from
    #[arg(long, value_name = "FILE", required_unless_present = "merge")]
    data: Option<PathBuf>,
    /// Texts to measure on, instead of the last part of the data
    #[arg(long, value_name = "FILE", alias = "held_out")]
    held_out: Option<PathBuf>,
    /// The last part of the data that is held out to measure on
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 0.1,
        alias = "held_out_share"
    )]
    held_out_share: f64,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write an adapter or tiles of an earlier run into a checkpoint, and train nothing
    #[arg(long, value_name = "DIR", conflicts_with_all = ["method", "data"])]
    merge: Option<PathBuf>,
    #[command(flatten)]
    training: Training,
    #[command(flatten)]
    tiles: Tiles,
    /// Rank of LoRA and DoRA
    #[arg(long, value_name = "N", default_value_t = 8)]
    rank: usize,
    /// Scale of LoRA and DoRA, over the rank [default: the rank]
    #[arg(long, value_name = "X")]
    alpha: Option<f32>,
    /// Maps that LoRA and DoRA change, such as q_proj,v_proj [default: all seven]
    #[arg(long, value_name = "MAP,...", value_delimiter = ',')]
    targets: Vec<String>,
    #[command(flatten)]
    prompt: Prompt,
    /// Keep the super weights at their values: those that detection finds, a file, or a list LAYER:ROW:COL,...
    #[arg(
        long,
        value_name = "auto|FILE|LIST",
        num_args = 0..=1,
        default_missing_value = "auto",
        alias = "freeze_super_weights"
    )]
    freeze_super_weights: Option<String>,
    /// What is written: the change by itself, or a checkpoint with it
    #[arg(long, value_enum, default_value_t = WriteName::Change)]
    write: WriteName,
    /// Replace the folder if it is there
    #[arg(long)]
    force: bool,
    /// Write the token ids of every step and of the held-out texts to a JSON file, and train nothing
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How the steps go.
#[derive(Args, Clone, Serialize)]
struct Training {
    /// Steps
    #[arg(long, value_name = "N", default_value_t = 100)]
    steps: usize,
    /// Highest learning rate, which falls linearly to zero
    #[arg(long, value_name = "X", default_value_t = 1e-3)]
    rate: f32,
    /// Steps over which the rate rises
    #[arg(long, value_name = "N", default_value_t = 0, alias = "rate_warmup")]
    rate_warmup: usize,
    /// Sequences of a step
    #[arg(long, value_name = "N", default_value_t = 4)]
    batch: usize,
    /// Sequences that are in memory together; gradients of the others are added [default: the batch]
    #[arg(long, value_name = "N", alias = "at_a_time")]
    at_a_time: Option<usize>,
    /// Tokens of a sequence, at most
    #[arg(long, value_name = "N", default_value_t = 128)]
    length: usize,
    /// Decides the order of the data, initial adapters and soft prompts, and random tiles
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// AdamW's weight decay
    #[arg(long, value_name = "X", default_value_t = 0.0, alias = "weight_decay")]
    weight_decay: f32,
    /// AdamW's decay of the first moment
    #[arg(long, value_name = "X", default_value_t = 0.9)]
    beta1: f32,
    /// AdamW's decay of the second moment
    #[arg(long, value_name = "X", default_value_t = 0.95)]
    beta2: f32,
    /// Largest gradient norm
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    clip: f64,
    /// Steps between two measurements on held-out texts
    #[arg(long, value_name = "N", default_value_t = 25, alias = "measure_every")]
    #[serde(skip)]
    measure_every: usize,
    /// Held-out sequences, at most
    #[arg(long, value_name = "N", default_value_t = 64, alias = "measure_on")]
    measure_on: usize,
    /// Steps between two saved states
    #[arg(long, value_name = "N", default_value_t = 25, alias = "save_every")]
    #[serde(skip)]
    save_every: usize,
}

/// The soft prompt.
#[derive(Args)]
struct Prompt {
    /// Rows of the soft prompt, which take as many of the model's positions
    #[arg(long, value_name = "N", default_value_t = 20, alias = "virtual_tokens")]
    virtual_tokens: usize,
    /// A text whose embeddings the soft prompt begins as, cut or repeated to as many tokens
    #[arg(long, value_name = "TEXT", alias = "prompt_text")]
    prompt_text: Option<String>,
    /// What it begins as without a text: embeddings of tokens drawn from the vocabulary, or normal numbers
    #[arg(
        long,
        value_enum,
        default_value_t = InitName::SampleVocab,
        conflicts_with = "prompt_text",
        alias = "prompt_init"
    )]
    prompt_init: InitName,
}

#[derive(Clone, Copy, ValueEnum)]
enum InitName {
    #[value(alias = "sample_vocab")]
    SampleVocab,
    Random,
}

/// Which tiles.
#[derive(Args)]
struct Tiles {
    /// Weights in tiles, as a share of all weights
    #[arg(long, value_name = "X", default_value_t = 0.01)]
    share: f64,
    /// Rows, and columns, of a tile [default: the largest power of two to 256 that divides all matrices of the pool]
    #[arg(long, value_name = "N")]
    tile: Option<usize>,
    /// Maps that tiles are chosen from
    #[arg(
        long,
        value_name = "MAP,...",
        value_delimiter = ',',
        default_value = "down_proj"
    )]
    pool: Vec<String>,
    /// What a tile is worth
    #[arg(long, value_enum, default_value_t = ScoreName::MeanMagnitude)]
    score: ScoreName,
    /// Give every matrix of the pool an equal part of the share
    #[arg(long, alias = "per_matrix")]
    per_matrix: bool,
    /// Passes whose gradients choose tiles
    #[arg(long, value_name = "N", default_value_t = 10)]
    warmup: usize,
    /// A selection.json instead of a choice; tiles of side 1 are single weights
    #[arg(long, value_name = "FILE")]
    selection: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum MethodName {
    Smt,
    Lora,
    Dora,
    Prompt,
    Linear,
    Full,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WriteName {
    Change,
    Checkpoint,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScoreName {
    MeanMagnitude,
    SignedMean,
    Euclidean,
    Relative,
    Magnitude,
    Random,
}

impl Tune {
    pub(crate) fn run(&self) -> Result<()> {
        let model = self.model.open()?;
        if let Some(dir) = &self.merge {
            let change = Change::read(&model, dir).context("--merge")?;
            ensure!(
                !matches!(change, Change::Prompt(_)),
                "--merge {}: a soft prompt changes no weight, so no checkpoint can hold it; give it to sw eval or sw generate as --adapter",
                dir.display()
            );
            let tuned = change.merged(&model)?;
            let changed = change.tensors();
            let folder = NewFolder::begin(&self.out, &[model.source(), dir], self.force)?;
            run::publish(folder, |folder| {
                Ok(sw_train::tune::write_checkpoint(
                    &model, &tuned, &changed, folder,
                )?)
            })?;
            tell(format!("written: {}", self.out.display()));
            return Ok(());
        }
        let (Some(method), Some(data)) = (self.method, &self.data) else {
            bail!("--method, --data: expected both");
        };
        sw_train::mapped::check(&model)?;
        self.training.check()?;
        let (held_out, share) = (self.held_out.as_deref(), self.held_out_share);
        let mut before = None;
        if method == MethodName::Prompt {
            ensure!(
                self.write == WriteName::Change,
                "--write checkpoint: a soft prompt changes no weight, so no checkpoint can hold it"
            );
            before = Some(self.prompt.virtual_tokens);
        }
        let length = data::Length {
            tokens: self.training.length,
            before,
        };
        let data = data::Data::read(&model, data, held_out, share, length)?;
        run::run(self, method, &model, data)
    }

    /// The weights that are frozen.
    fn frozen(&self, model: &Model) -> Result<Vec<WeightCoord>> {
        match self.freeze_super_weights.as_deref() {
            None => Ok(Vec::new()),
            Some("auto") => {
                let tokens =
                    crate::opening::encode(model, sw_detect::DEFAULT_PROMPT, Default::default())?;
                let report = sw_detect::detect(model, &tokens, &Default::default())?;
                let found = report.super_weights.iter().map(sw_detect::Candidate::coord);
                let found: Vec<_> = found.collect();
                ensure!(
                    !found.is_empty(),
                    "--freeze-super-weights auto: no weight stands out; name one as LAYER:ROW:COL"
                );
                Ok(found)
            }
            Some(given) => Ok(sw_detect::coordinates(given).context("--freeze-super-weights")?),
        }
    }

    fn targets(&self) -> Result<Vec<Linear>> {
        match self.targets.is_empty() {
            true => Ok(sw_train::mapped::MAPS.to_vec()),
            false => maps("--targets", &self.targets),
        }
    }
}

impl Prompt {
    fn options(&self) -> PromptOptions {
        let init = match (&self.prompt_text, self.prompt_init) {
            (Some(text), _) => PromptInit::Text(text.clone()),
            (None, InitName::SampleVocab) => PromptInit::SampleVocab,
            (None, InitName::Random) => PromptInit::Random,
        };
        PromptOptions {
            virtual_tokens: self.virtual_tokens,
            init,
        }
    }
}

impl Training {
    fn check(&self) -> Result<()> {
        let positive = [
            ("--steps", self.steps),
            ("--batch", self.batch),
            ("--measure-every", self.measure_every),
            ("--save-every", self.save_every),
            ("--at-a-time", self.at_a_time.unwrap_or(1)),
        ];
        for (name, n) in positive {
            ensure!(n > 0, "{name} {n}: expected at least 1");
        }
        let finite = self.rate.is_finite() && self.rate > 0.0;
        ensure!(finite, "--rate {}: expected a number above 0", self.rate);
        ensure!(
            self.clip > 0.0,
            "--clip {}: expected a number above 0",
            self.clip
        );
        for (name, beta) in [("--beta1", self.beta1), ("--beta2", self.beta2)] {
            ensure!(
                (0.0..1.0).contains(&beta),
                "{name} {beta}: expected 0 to below 1"
            );
        }
        let decay = self.weight_decay;
        ensure!(
            (0.0..1.0).contains(&decay),
            "--weight-decay {decay}: expected 0 to below 1"
        );
        Ok(())
    }
}

impl Tiles {
    /// How tiles are chosen in this model.
    fn options(&self, model: &Model, seed: u64) -> Result<TileOptions> {
        let pool = maps("--pool", &self.pool)?;
        let sizes = model.linears().filter(|at| pool.contains(&at.linear));
        let sizes: Vec<usize> = sizes.flat_map(|at| model.spec().shape(at)).collect();
        let fits = |side: &usize| sizes.iter().all(|n| n.is_multiple_of(*side));
        let largest = || (0..=8).rev().map(|i| 1 << i).find(fits);
        ensure!(self.warmup > 0, "--warmup 0: expected at least 1");
        Ok(TileOptions {
            side: self.tile.or_else(largest).unwrap_or(1),
            budget: Budget::Share(self.share),
            per_matrix: self.per_matrix,
            pool,
            score: match self.score {
                ScoreName::MeanMagnitude => TileScore::MeanMagnitude,
                ScoreName::SignedMean => TileScore::SignedMean,
                ScoreName::Euclidean => TileScore::Euclidean,
                ScoreName::Relative => TileScore::Relative,
                ScoreName::Magnitude => TileScore::Magnitude,
                ScoreName::Random => TileScore::Random { seed },
            },
            warmup: Warmup::Gradients { steps: self.warmup },
        })
    }

    /// A choice that was made elsewhere.
    fn given(&self) -> Result<Option<TileSelection>> {
        let given = self.selection.as_deref().map(TileSelection::read);
        given.transpose().context("--selection")
    }
}

/// Linear maps by their names.
fn maps(option: &str, names: &[String]) -> Result<Vec<Linear>> {
    let named = |name: &String| {
        let found = Linear::ALL
            .into_iter()
            .find(|linear| linear.to_string() == *name);
        let all = Linear::ALL.map(|linear| linear.to_string()).join(", ");
        found
            .with_context(|| format!("{option} {name}: no such linear map; expected some of {all}"))
    };
    names.iter().map(named).collect()
}
