//! Integration tests, one binary.

mod behaviour;
mod families;
mod finds;
mod planted;
mod tinystories;
