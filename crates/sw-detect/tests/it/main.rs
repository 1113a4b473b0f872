//! Integration tests, one binary.

mod behaviour;
mod census;
mod families;
mod finds;
mod json;
mod nano;
mod planted;
mod tinystories;
