//! Sharding by document: shard `i` of `n` takes documents `i - 1`, `i - 1 + n`, `i - 1 + 2n`, ...

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A part of the documents, `index` counted from 1; written `i/n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shard {
    index: usize,
    count: usize,
}

/// Everything.
impl Default for Shard {
    fn default() -> Self {
        Self { index: 1, count: 1 }
    }
}

impl Shard {
    /// Shard `index` (from 1) of `count`.
    ///
    /// # Errors
    /// When `index` is not in `1..=count`.
    pub fn new(index: usize, count: usize) -> Result<Self> {
        if index == 0 || index > count {
            return Err(Error::Options(format!(
                "shard {index}/{count}: expected i/n with 1 <= i <= n"
            )));
        }
        Ok(Self { index, count })
    }

    /// Rank and size as a launcher tells them: Open MPI's or PMIx's, MPICH's, Slurm's variables, looked up by `get`.
    ///
    /// # Errors
    /// When no launcher is recognised, or its variables contradict each other.
    pub fn from_launcher(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        const PAIRS: [(&str, &str); 3] = [
            ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
            ("PMI_RANK", "PMI_SIZE"),
            ("SLURM_PROCID", "SLURM_NTASKS"),
        ];
        let number = |name: &str| get(name).and_then(|v| v.trim().parse::<usize>().ok());
        let found = PAIRS
            .iter()
            .find_map(|(rank, size)| Some((number(rank)?, number(size)?)));
        let (rank, size) = found.ok_or_else(|| {
            let names = PAIRS
                .map(|(rank, size)| format!("{rank} and {size}"))
                .join(", ");
            Error::Options(format!(
                "shard auto: started by no known launcher (looked for {names}); give i/n instead"
            ))
        })?;
        Self::new(rank + 1, size)
    }

    /// Which shard, from 1.
    pub fn index(self) -> usize {
        self.index
    }

    /// How many there are.
    pub fn count(self) -> usize {
        self.count
    }

    /// Whether this is everything.
    pub fn is_whole(self) -> bool {
        self.count == 1
    }

    /// Whether a document belongs to it.
    pub fn holds(self, doc: usize) -> bool {
        doc % self.count == self.index - 1
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let parts = s
            .split_once('/')
            .and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        let (index, count) = parts
            .ok_or_else(|| Error::Options(format!("shard {s:?}: expected i/n with 1 <= i <= n")))?;
        Self::new(index, count)
    }
}

impl TryFrom<String> for Shard {
    type Error = Error;

    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<Shard> for String {
    fn from(shard: Shard) -> String {
        shard.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_split_all_documents() {
        let shards: Vec<Shard> = (1..=3).map(|i| format!("{i}/3").parse().unwrap()).collect();
        for doc in 0..10 {
            assert_eq!(shards.iter().filter(|s| s.holds(doc)).count(), 1);
        }
        for bad in ["0/3", "4/3", "1", "a/b", "1/0"] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
    }

    #[test]
    fn launchers_tell_rank_and_size() {
        let env = |pairs: &'static [(&str, &str)]| {
            Shard::from_launcher(move |name| {
                pairs
                    .iter()
                    .find(|(k, _)| *k == name)
                    .map(|(_, v)| v.to_string())
            })
        };
        assert_eq!(
            env(&[("OMPI_COMM_WORLD_RANK", "2"), ("OMPI_COMM_WORLD_SIZE", "3")])
                .unwrap()
                .to_string(),
            "3/3"
        );
        assert_eq!(
            env(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")])
                .unwrap()
                .to_string(),
            "1/4"
        );
        assert!(
            env(&[("SLURM_PROCID", "0")])
                .unwrap_err()
                .to_string()
                .contains("no known launcher")
        );
    }
}
