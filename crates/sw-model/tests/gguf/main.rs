//! GGUF as a source: the real file of the shared folder, every family that the format knows, and folders.

mod families;
mod folder;
mod hostile;
mod keys;
mod real;
mod spm;
mod written;
