//! Integration tests, one binary.

mod behaviour;
mod families;
mod finds;
mod json;
mod planted;
mod tinystories;
