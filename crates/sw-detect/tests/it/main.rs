//! Integration tests, one binary.

mod behaviour;
mod blind_spots;
mod census;
mod embedded;
mod exhaustive;
mod families;
mod finds;
mod json;
mod nano;
mod planted;
mod tinystories;
