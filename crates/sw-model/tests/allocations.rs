//! What a pass allocates once it has run before. A process of its own, for its allocator counts.

use std::{alloc::System, path::Path};

use stats_alloc::{INSTRUMENTED_SYSTEM, Stats, StatsAlloc};
use sw_model::{Hook, Model, Seq, Site, SiteView};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Reads the allocator as the first layer begins and as the last one ends.
struct Meter {
    last: usize,
    read: Vec<Stats>,
}

impl Hook for Meter {
    fn wants(&self, site: Site) -> bool {
        site == Site::ResidPre(0) || site == Site::ResidPost(self.last)
    }
    fn visit(&mut self, _: Site, _: SiteView<'_>) {
        self.read.push(COUNTING.stats());
    }
}

/// Bytes that are allocated in the layers of a pass.
fn in_layers(model: &Model, texts: &[Vec<u32>]) -> usize {
    let mut meter = Meter {
        last: model.spec().layers.len() - 1,
        read: Vec::with_capacity(2),
    };
    let seqs: Vec<_> = texts.iter().map(|t| Seq::from(&t[..])).collect();
    model.forward(&seqs, &mut meter).unwrap();
    let [before, after] = meter.read[..] else {
        panic!("a pass begins and ends once");
    };
    (after - before).bytes_allocated
}

#[test]
fn layers_allocate_no_activations_after_the_first_batch() {
    // The portable products are the `gemm` crate's, which takes new memory for its own use with each of them.
    if sw_tensor::isa_name() == "scalar" {
        return;
    }
    // One thread: what others keep to work in is made when they first have work.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let text = |i: u32| (0..64).map(|t| (t * (i + 3) + i) % 64).collect();
    let texts: Vec<Vec<u32>> = (0..8).map(text).collect();
    let others: Vec<Vec<u32>> = (8..16).map(text).collect();
    pool.unwrap().install(|| {
        for name in [
            "llama",
            "phi3",
            "olmo2",
            "gpt_neox",
            "gpt2",
            "olmoe",
            "mixtral",
            "pr_moe",
            "qwen3_moe",
        ] {
            let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
            let model = Model::open(golden.join(name)).unwrap();
            in_layers(&model, &texts);
            let again = in_layers(&model, &others);
            // Lists of what is to be done remain, and they are shorter than the smallest matrix of activations.
            let smallest = 8 * 64 * model.spec().kv_width() * size_of::<f32>();
            assert!(again < smallest, "{name}: {again} of {smallest} bytes");
        }
    });
}
