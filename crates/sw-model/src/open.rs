//! How a model is opened: a directory in Hugging Face layout, or a GGUF file.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicU64},
};

use sw_tensor::{Checkpoint, Mat, files};

use crate::{
    config,
    error::{Error, Result},
    family, generate, gguf, layout,
    model::{Model, Opened},
    spec::Spec,
    tokenizer::Tokenizer,
    weights::Weights,
};

/// How to open a checkpoint.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct OpenOptions {
    /// Config fields to pass over although they are not implemented; one inside an object with the object's name before
    /// it, as in `rope_scaling.factor`.
    pub ignore_config_fields: Vec<String>,
    /// Whether a config field that no model is known to read is an error; otherwise it is passed over, and
    /// [`Model::unknown_config_fields`] names it. The same of metadata keys of a GGUF file.
    pub strict_config: bool,
    /// Which GGUF file of a folder is opened; `None`: the only one, where it has no safetensors.
    pub gguf: Option<String>,
    /// Who reads the matrices of a quantized checkpoint; without it, or for another method, one is refused.
    pub decoder: Option<Arc<dyn Decoder>>,
}

/// Reads linear maps that are stored in another way than as numbers. (This crate knows no quantizer.)
pub trait Decoder: std::fmt::Debug + Send + Sync {
    /// `quant_method` of the configs whose checkpoints it reads.
    fn quant_method(&self) -> &str;

    /// The matrix stored under `name`, which must have this shape, in memory; `None` where it is stored as numbers.
    ///
    /// # Errors
    /// What is wrong with what is stored, in one line.
    fn decode(
        &self,
        checkpoint: &Checkpoint,
        name: &str,
        shape: [usize; 2],
    ) -> Result<Option<Mat>, String>;
}

/// The one warning that lists the fields of a config, or the metadata keys of a GGUF file, that no known model reads.
fn passed_over(path: &Path, unknown: &[String], options: &OpenOptions) -> Result<Vec<String>> {
    let [first, ..] = unknown else {
        return Ok(Vec::new());
    };
    let fields = unknown.join(", ");
    if options.strict_config {
        let problem = format!(
            "no implemented or known model reads this; leave it out, open without --strict-config, or pass --ignore-config-field {first}"
        );
        return Err(config::config_error(path, fields, problem));
    }
    let file = path.display();
    Ok(vec![format!(
        "{file}: passed over, since no known model reads them: {fields}"
    )])
}

/// A warning where the tokenizer makes tokens that the embedding has no row for.
fn more_tokens_than_rows(
    tokenizer: &Result<Tokenizer, (PathBuf, String)>,
    spec: &Spec,
) -> Option<String> {
    let known = tokenizer.as_ref().ok()?.vocab_size();
    let vocab = spec.vocab_size;
    (known > vocab).then(|| {
        format!("the tokenizer knows {known} tokens, the model {vocab}: a text that needs the others is refused")
    })
}

impl Model {
    /// Opens a directory in Hugging Face layout (`config.json`, `*.safetensors`, `tokenizer.json`), a GGUF file, or a
    /// directory that holds one.
    ///
    /// Weights stay on disk, memory-mapped; only norms and biases are copied.
    ///
    /// # Errors
    /// One line naming file, field or tensor, expected and found: a missing file, a field that is not implemented, a
    /// missing or misshapen tensor, a truncated file. A broken `tokenizer.json` is reported by
    /// [`tokenizer`](Self::tokenizer), when it is needed.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(dir, &OpenOptions::default())
    }

    /// [`open`](Self::open) with options.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn open_with(dir: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        let dir = dir.as_ref();
        if let Some(file) = gguf::find(dir, options.gguf.as_deref())? {
            return Self::open_gguf(&file, options);
        }
        let path = dir.join("config.json");
        let there = |path: &Path| files::is_there(path).map_err(|e| Error::io(path, e));
        if !there(dir)? {
            return Err(Error::NotFound {
                model: dir.display().to_string(),
                searched: vec![dir.into()],
            });
        }
        if files::is_unfinished(dir) {
            return Err(Error::Unfinished { dir: dir.into() });
        }
        if let Some(adapter) = adapter(dir)? {
            return Err(adapter);
        }
        if !there(&path)? {
            let hint = "a checkpoint directory in Hugging Face layout has one".into();
            return Err(Error::MissingFile {
                dir: dir.into(),
                missing: "config.json",
                hint,
            });
        }
        let mut config = config::read_json(&path)?;
        let method = &config["quantization_config"]["quant_method"];
        let decoder = options.decoder.as_deref();
        let decoder = decoder.filter(|d| method.as_str() == Some(d.quant_method()));
        if let (Some(_), Some(config)) = (decoder, config.as_object_mut()) {
            config.remove("quantization_config");
        }
        other_format(dir)?;
        let mut checkpoint = Checkpoint::open(dir)?;
        let stored = [
            checkpoint.names().count(),
            layout::most_experts(&checkpoint),
        ];
        let (mut spec, unknown) =
            family::spec(&path, &config, stored, &options.ignore_config_fields)?;
        let mut warnings = passed_over(&path, &unknown, options)?;
        spec.names.fit(&checkpoint);
        layout::publish(&spec, &mut checkpoint)?;
        let untied = layout::untie(&mut spec, &checkpoint);
        let weights = Weights::load(&spec, &checkpoint, decoder)?;
        let tokenizer = Tokenizer::open(dir, &config);
        warnings.extend(untied);
        warnings.extend(more_tokens_than_rows(&tokenizer, &spec));
        let (eos, unread) = generate::eos_tokens(dir, &config);
        warnings.extend(unread);
        let ropes = spec.rope_tables();
        let (dtype, coding) = weights.stored_as();
        let opened = Opened {
            dir: dir.into(),
            gguf: None,
            spec,
            dtype,
            coding,
            ropes,
            ignored: options.ignore_config_fields.clone(),
            unknown,
            warnings,
            eos,
            tokenizer,
            scratch: Mutex::default(),
            waited: AtomicU64::new(u64::MAX),
        };
        Ok(Self::new(opened, weights))
    }

    fn open_gguf(file: &Path, options: &OpenOptions) -> Result<Self> {
        let source = gguf::open(file, &options.ignore_config_fields)?;
        let mut warnings = passed_over(file, &source.unknown, options)?;
        let weights = Weights::load(&source.spec, &source.checkpoint, None)?;
        let (dtype, coding) = weights.stored_as();
        warnings.extend(more_tokens_than_rows(&source.tokenizer, &source.spec));
        let opened = Opened {
            dir: source.checkpoint.dir().into(),
            gguf: Some(source.file),
            ropes: source.spec.rope_tables(),
            spec: source.spec,
            dtype,
            coding,
            ignored: options.ignore_config_fields.clone(),
            unknown: source.unknown,
            warnings,
            eos: Vec::new(),
            tokenizer: source.tokenizer,
            scratch: Mutex::default(),
            waited: AtomicU64::new(u64::MAX),
        };
        Ok(Self::new(opened, weights))
    }
}

/// What a directory is that holds changes to a model (LoRA, say), and no model.
fn adapter(dir: &Path) -> Result<Option<Error>> {
    let path = dir.join("adapter_config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
    let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
    let has_model = |name: String| name.ends_with(".safetensors") && !name.starts_with("adapter_");
    if names.into_iter().any(has_model) {
        return Ok(None);
    }
    let config = config::read_json(&path)?;
    let text = |key: &str, unnamed: &str| config[key].as_str().unwrap_or(unnamed).to_owned();
    Ok(Some(Error::Adapter {
        dir: dir.into(),
        kind: text("peft_type", "PEFT"),
        base: text("base_model_name_or_path", "a model that it does not name"),
    }))
}

/// Says what to do with a directory whose weights are in another format only.
fn other_format(dir: &Path) -> Result<()> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
    let names: Vec<String> = entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .collect();
    if names
        .iter()
        .any(|n| n.ends_with(".safetensors") || n.ends_with(".safetensors.index.json"))
    {
        return Ok(());
    }
    let found = |end: &str| names.iter().find(|n| n.ends_with(end));
    let hint = match found(".bin").or_else(|| found(".pth")) {
        Some(file) => format!(
            "only {file} is there; convert with transformers: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT)"
        ),
        None => "a checkpoint directory in Hugging Face layout has one or more".into(),
    };
    Err(Error::MissingFile {
        dir: dir.into(),
        missing: "*.safetensors",
        hint,
    })
}

/// The files beside `config.json` and the weights that make a checkpoint: whoever writes one from another copies those that
/// are there ([`Model::file`]). The code of a model or a tokenizer, `*.py`, is not listed.
pub const BESIDE: [&str; 22] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.json",
    "chat_template.jinja",
    "tekken.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "image_processor_config.json",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "NOTICE",
    "USE_POLICY.md",
];
