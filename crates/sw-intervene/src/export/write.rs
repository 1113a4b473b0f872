//! Writing a plan: tensors are made as the file asks for them, and dropped when they are written.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ops::ControlFlow,
    path::Path,
};

use safetensors::{Dtype as FileDtype, View};
use serde_json::{Value, json};
use sw_model::BESIDE;
use sw_tensor::files::NewFolder;

use super::{
    Exporting, Format, Outcome, compressed, packed,
    plan::{Job, NewTensor, NewTensorKind, Plan, TensorPlan},
};
use crate::error::{Error, Result};

impl Plan {
    /// Writes the checkpoint to `out`, which is there when all of it is. Private memory is what one matrix takes (and a
    /// copy of it while a z is searched).
    ///
    /// `progress` hears of every tensor that is written, and may stop the writing.
    ///
    /// # Errors
    /// A folder that may not be written, a matrix that cannot be quantized, naming the tensor; a full disk;
    /// [`Error::Stopped`] where `progress` stopped it. Nothing is left then.
    pub fn write(
        &self,
        out: &Path,
        force: bool,
        progress: &mut dyn FnMut(Exporting) -> ControlFlow<()>,
    ) -> Result<BTreeMap<String, Outcome>> {
        let folder = NewFolder::begin(out, &[self.model.source()], force)?;
        let run = Run {
            out,
            progress: RefCell::new(progress),
            total: self.bytes()[1],
            done: Cell::new(0),
            failure: RefCell::new(None),
            outcomes: RefCell::default(),
            small: RefCell::default(),
        };
        self.write_weights(&folder, &run)?;
        let outcomes = run.outcomes.into_inner();
        let put = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).map_err(|e| Error::io(&path, e))
        };
        let code = self.code()?;
        for name in BESIDE.into_iter().chain(code.iter().map(String::as_str)) {
            if let Some(content) = self.model.file(name)? {
                put(name, &content)?;
            }
        }
        put("config.json", &self.config()?)?;
        let mut record = json!({
            "written_by": concat!("sw-eval ", env!("CARGO_PKG_VERSION")),
            "original": self.model.fingerprint()?,
            "export": self.export,
            "bits_per_weight": self.bits_per_weight()[0],
            "tensors": self.summary(&outcomes),
        });
        if let Some(gguf) = self.model.gguf() {
            record["gguf"] = json!(gguf);
        }
        put("superweight.json", format!("{record:#}\n").as_bytes())?;
        folder.publish()?;
        Ok(outcomes)
    }

    /// Python files of the original.
    fn code(&self) -> Result<Vec<String>> {
        let dir = self.model.dir();
        if self.model.gguf().is_some() {
            return Ok(Vec::new()); // what lies beside a GGUF file is not the model's
        }
        let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
        let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
        Ok(names.filter(|name| name.ends_with(".py")).collect())
    }

    /// The quantized tensors, with what became of them.
    pub fn summary(&self, outcomes: &BTreeMap<String, Outcome>) -> Value {
        let quantized = self.tensors().iter().filter(|t| t.job.is_some());
        let one = |t: &TensorPlan| {
            let mut value = json!(t);
            if let (Some(map), Some(outcome)) = (value.as_object_mut(), outcomes.get(&t.name))
                && let Value::Object(more) = json!(outcome)
            {
                map.extend(more);
            }
            value
        };
        quantized.map(one).collect()
    }

    /// `config.json`: as it was, and what the format adds.
    fn config(&self) -> Result<Vec<u8>> {
        let path = self.model.dir().join("config.json");
        let text = self.model.file("config.json")?;
        let text =
            text.ok_or_else(|| Error::Options(format!("{}: no such file", path.display())))?;
        let Some(added) = &self.quantization else {
            return Ok(text);
        };
        let mut config: Value = serde_json::from_slice(&text)
            .map_err(|e| Error::Options(format!("{}: {e}", path.display())))?;
        config["quantization_config"] = added.clone();
        Ok(format!("{config:#}\n").into_bytes())
    }

    fn write_weights(&self, folder: &NewFolder, run: &Run<'_>) -> Result<()> {
        let shards = self.shards();
        let mut index = serde_json::Map::new();
        for (i, tensors) in shards.iter().enumerate() {
            let name = match shards.len() {
                1 => "model.safetensors".to_owned(),
                n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
            };
            let views = tensors.iter().flat_map(|tensor| {
                tensor.parts.iter().map(|part| {
                    let view = PartView {
                        plan: self,
                        tensor,
                        part,
                        run,
                    };
                    (part.name.as_str(), view)
                })
            });
            let metadata = [("format".to_owned(), "pt".to_owned())].into();
            let path = folder.path().join(&name);
            let written = safetensors::serialize_to_file(views, Some(metadata), &path);
            if let Some(failure) = run.failure.borrow_mut().take() {
                return Err(failure);
            }
            written.map_err(|e| Error::io(&path, std::io::Error::other(e)))?;
            folder.open_to_others(&path)?; // the library makes it a private file
            for part in tensors.iter().flat_map(|t| &t.parts) {
                index.insert(part.name.clone(), name.clone().into());
            }
        }
        if shards.len() > 1 {
            let index = json!({"metadata": {"total_size": run.total}, "weight_map": index});
            let path = folder.path().join("model.safetensors.index.json");
            std::fs::write(&path, format!("{index:#}\n")).map_err(|e| Error::io(&path, e))?;
        }
        Ok(())
    }

    /// Tensors by file, in order.
    fn shards(&self) -> Vec<Vec<&TensorPlan>> {
        let (mut shards, mut bytes) = (vec![Vec::new()], 0);
        for tensor in self.tensors() {
            let more = tensor.bytes as u64;
            if bytes > 0 && bytes + more > self.export.shard_bytes {
                shards.push(Vec::new());
                bytes = 0;
            }
            bytes += more;
            if let Some(shard) = shards.last_mut() {
                shard.push(tensor);
            }
        }
        shards
    }
}

/// What the views of one run share. A view cannot fail, so the first error waits here, and what follows is empty.
struct Run<'a> {
    out: &'a Path,
    progress: RefCell<&'a mut dyn FnMut(Exporting) -> ControlFlow<()>>,
    total: u64,
    done: Cell<u64>,
    failure: RefCell<Option<Error>>,
    outcomes: RefCell<BTreeMap<String, Outcome>>,
    /// Scales and zero-points that came with codes and are written later: small.
    small: RefCell<BTreeMap<(String, u8), Vec<u8>>>,
}

/// One tensor of the new file, made when it is written.
struct PartView<'a, 'r> {
    plan: &'a Plan,
    tensor: &'a TensorPlan,
    part: &'a NewTensor,
    run: &'a Run<'r>,
}

impl View for PartView<'_, '_> {
    fn dtype(&self) -> FileDtype {
        self.part.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.part.shape
    }

    fn data_len(&self) -> usize {
        self.part.len
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if self.run.failure.borrow().is_some() {
            return Cow::default();
        }
        let bytes = match self.bytes() {
            Ok(bytes) if bytes.len() == self.part.len => bytes,
            Ok(bytes) => return self.fail(format!("{} bytes of {}", bytes.len(), self.part.len)),
            Err(problem) => return self.fail(problem),
        };
        let done = self.run.done.get() + bytes.len() as u64;
        self.run.done.set(done);
        let total = self.run.total;
        let goes_on = (self.run.progress.borrow_mut())(Exporting { done, total });
        if goes_on.is_break() {
            let out = self.run.out.into();
            *self.run.failure.borrow_mut() = Some(Error::Stopped { out });
        }
        bytes
    }
}

impl PartView<'_, '_> {
    fn fail(&self, problem: String) -> Cow<'_, [u8]> {
        let failure = Error::Options(format!("{}: {problem}", self.tensor.name));
        *self.run.failure.borrow_mut() = Some(failure);
        Cow::default()
    }

    fn bytes(&self) -> Result<Cow<'_, [u8]>, String> {
        let name = &self.tensor.name;
        let stored = self.plan.checkpoint.bytes(name).ok_or("no such tensor")?;
        let Some(job) = &self.tensor.job else {
            return Ok(stored);
        };
        let made = match (self.part.kind, self.plan.export.format) {
            (NewTensorKind::Copy, _) => return Ok(stored),
            (NewTensorKind::HeldAt, _) => packed::held_at(job),
            (NewTensorKind::Held, _) => job.held_values(&stored),
            (NewTensorKind::Fake, _) => {
                let (bytes, outcome) = job.fake(&stored).map_err(|e| e.to_string())?;
                self.keep(outcome);
                bytes
            }
            (_, Format::PackedSw) => {
                let (mut q, outcome) = job.codes(&stored, false).map_err(|e| e.to_string())?;
                self.keep(outcome);
                q.take_outliers();
                q.to_bytes()
            }
            (NewTensorKind::Shape, _) => compressed::shape(job),
            (kind, _) => self.compressed(job, &stored, kind)?,
        };
        Ok(made.into())
    }

    fn keep(&self, outcome: Outcome) {
        let name = self.tensor.name.clone();
        self.run.outcomes.borrow_mut().insert(name, outcome);
    }

    /// A part of the compressed form. Scales and zero-points are kept until they are asked for; codes are not.
    fn compressed(&self, job: &Job, stored: &[u8], kind: NewTensorKind) -> Result<Vec<u8>, String> {
        let key = |kind: NewTensorKind| (self.tensor.name.clone(), kind as u8);
        if let Some(bytes) = self.run.small.borrow_mut().remove(&key(kind)) {
            return Ok(bytes);
        }
        let (q, outcome) = job.codes(stored, true).map_err(|e| e.to_string())?;
        self.keep(outcome);
        for other in [NewTensorKind::Scales, NewTensorKind::Zeros] {
            if other != kind && kind == NewTensorKind::Codes {
                let bytes = compressed::bytes(job, &q, other);
                self.run.small.borrow_mut().insert(key(other), bytes);
            }
        }
        Ok(compressed::bytes(job, &q, kind))
    }
}
