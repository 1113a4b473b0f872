//! Integration tests, one binary.

mod tinystories;
