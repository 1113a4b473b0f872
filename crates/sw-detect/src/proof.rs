//! The proof.
use serde::{Deserialize, Serialize};
/// Effects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effects {}
