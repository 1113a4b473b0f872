//! Integration tests, one binary.

mod behaviour;
mod finds;
mod planted;
mod tinystories;
