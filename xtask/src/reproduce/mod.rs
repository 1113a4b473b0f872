//! The paper's tables and figures: one typed description each, run the same way, alone or all together.

mod all;
mod beyond;
mod blocks;
mod eight_bit;
mod experiment;
mod figure1;
mod figure10;
mod figure2;
mod figure3;
mod figure4;
mod figure5;
mod figure6;
mod figure7;
mod function_words;
mod lw2g;
mod mixture;
mod sinks;
mod smt;
mod table1;
mod table2;
mod table3;
mod table4;
mod table6;
mod table7;

use anyhow::Result;
use clap::{Args, Subcommand};

pub(crate) use all::{Missing, Reproduce};
pub(crate) use experiment::{Experiment, Record};

use beyond::Beyond;
use experiment::{defaults, part, record};
use figure1::Figure1;
use figure2::Figure2;
use figure3::Figure3;
use figure4::Figure4;
use figure5::Figure5;
use figure6::Figure6;
use figure7::Figure7;
use figure10::Figure10;
use lw2g::Lw2g;
use mixture::{mos::Mos, pr_moe::PrMoe};
use smt::Smt;
use table1::Table1;
use table2::Table2;
use table3::Table3;
use table4::Table4;
use table6::Table6;
use table7::Table7;

use sw_cli::program::{self, say};

use crate::{inputs::Inputs, lab::Lab};

/// `reproduce-NAME`: inputs that all experiments share, and the options of this one.
#[derive(Args)]
pub(crate) struct Command<E: Args> {
    #[command(flatten)]
    inputs: Inputs,
    #[command(flatten)]
    experiment: E,
}

impl<E: Experiment> Command<E> {
    /// Runs and prints it; `true` for success.
    pub(crate) fn run(&self) -> Result<bool> {
        self.inputs.set_threads()?;
        let lab = Lab::open(&self.inputs)?;
        let record = record(&self.experiment, &lab, false)?;
        let found = self.experiment.found(&lab);
        if lab.inputs.super_weights.is_none() || found.is_ok() {
            say(found?.summary())?;
        }
        say(format!("\n{}", record.outcome.text()))?;
        if let Some(dir) = &self.inputs.out {
            program::tell(format!(
                "written: {}",
                dir.join(format!("{}.*", E::NAME)).display()
            ));
        }
        Ok(true)
    }
}

/// The commands of this module.
#[derive(Subcommand)]
pub(crate) enum Commands {
    Reproduce(Reproduce),
    ReproduceTable1(Command<Table1>),
    ReproduceFigure1(Command<Figure1>),
    ReproduceFigure2(Command<Figure2>),
    ReproduceTable2(Command<Table2>),
    ReproduceFigure3(Command<Figure3>),
    ReproduceFigure10(Command<Figure10>),
    ReproduceFigure4(Command<Figure4>),
    ReproduceFigure5(Command<Figure5>),
    ReproduceFigure6(Command<Figure6>),
    ReproduceTable3(Command<Table3>),
    ReproduceTable4(Command<Table4>),
    ReproduceTable7(Command<Table7>),
    ReproduceFigure7(Command<Figure7>),
    ReproduceTable6(Command<Table6>),
    ReproduceBeyond(Command<Beyond>),
    ReproduceLw2g(Command<Lw2g>),
    ReproduceMos(Command<Mos>),
    ReproducePrMoe(Command<PrMoe>),
    ReproduceSmt(Command<Smt>),
}

impl Commands {
    /// Runs the command; whether everything could be made.
    pub(crate) fn run(&self) -> Result<bool> {
        match self {
            Self::Reproduce(c) => c.run(),
            Self::ReproduceTable1(c) => c.run(),
            Self::ReproduceFigure1(c) => c.run(),
            Self::ReproduceFigure2(c) => c.run(),
            Self::ReproduceTable2(c) => c.run(),
            Self::ReproduceFigure3(c) => c.run(),
            Self::ReproduceFigure10(c) => c.run(),
            Self::ReproduceFigure4(c) => c.run(),
            Self::ReproduceFigure5(c) => c.run(),
            Self::ReproduceFigure6(c) => c.run(),
            Self::ReproduceTable3(c) => c.run(),
            Self::ReproduceTable4(c) => c.run(),
            Self::ReproduceTable7(c) => c.run(),
            Self::ReproduceFigure7(c) => c.run(),
            Self::ReproduceTable6(c) => c.run(),
            Self::ReproduceBeyond(c) => c.run(),
            Self::ReproduceLw2g(c) => c.run(),
            Self::ReproduceMos(c) => c.run(),
            Self::ReproducePrMoe(c) => c.run(),
            Self::ReproduceSmt(c) => c.run(),
        }
    }
}

/// An experiment in the list of all.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    run: fn(&Lab, bool) -> Result<Record>,
}

impl Entry {
    const fn of<E: Experiment>() -> Self {
        Self {
            name: E::NAME,
            run: |lab, fresh| record(&defaults::<E>(), lab, fresh),
        }
    }

    /// Runs it with its default options.
    pub(crate) fn run(&self, lab: &Lab, fresh: bool) -> Result<Record> {
        (self.run)(lab, fresh)
    }
}

/// All experiments, in the order of the report.
pub(crate) const ALL: &[Entry] = &[
    Entry::of::<Table1>(),
    Entry::of::<Figure1>(),
    Entry::of::<Figure2>(),
    Entry::of::<Table2>(),
    Entry::of::<Figure3>(),
    Entry::of::<Figure10>(),
    Entry::of::<Figure4>(),
    Entry::of::<Figure5>(),
    Entry::of::<Figure6>(),
    Entry::of::<Table3>(),
    Entry::of::<Table4>(),
    Entry::of::<Table7>(),
    Entry::of::<Figure7>(),
    Entry::of::<Table6>(),
    Entry::of::<Beyond>(),
    Entry::of::<Lw2g>(),
    // Three seeds are for the command by itself.
    Entry {
        name: Smt::NAME,
        run: |lab, fresh| record(&defaults::<Smt>().with_seeds(1), lab, fresh),
    },
    Entry {
        name: PrMoe::NAME,
        run: |lab, fresh| record(&defaults::<PrMoe>().with_seeds(1), lab, fresh),
    },
    Entry {
        name: Mos::NAME,
        run: |lab, fresh| record(&defaults::<Mos>().with_seeds(1), lab, fresh),
    },
];

/// Further checkpoints on the bench, under the same inputs.
pub(super) fn further(lab: &Lab, models: &[String]) -> Result<Vec<Lab>> {
    let open = |model: &String| {
        Lab::open(&Inputs {
            model: model.clone(),
            super_weights: None,
            out: None,
            ..lab.inputs.clone()
        })
    };
    models.iter().map(open).collect()
}
