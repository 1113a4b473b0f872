//! Integration tests, one binary.

mod finds;
mod planted;
mod tinystories;
