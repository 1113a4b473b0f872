//! Integration tests, one binary.

mod behaviour;
mod families;
mod finds;
mod json;
mod nano;
mod planted;
mod tinystories;
