//! What can be wrong with a checkpoint or an edit.

use std::path::PathBuf;

/// An error of this crate: one variant per cause, each with the place, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was attempted, "open" for example.
        action: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// A folder cannot be written there.
    #[error("{}: {problem}", path.display())]
    Place {
        /// Where it should be written.
        path: PathBuf,
        /// Why not, and what to do.
        problem: String,
    },
    /// The directory holds no safetensors file.
    #[error("{}: expected *.safetensors files, found none; convert the checkpoint to safetensors first", dir.display())]
    NoSafetensors {
        /// The directory that was searched.
        dir: PathBuf,
    },
    /// `model.safetensors.index.json` cannot be understood.
    #[error("{}: expected an object with \"weight_map\": {{tensor: file}}, found {found}", path.display())]
    BadIndex {
        /// The index file.
        path: PathBuf,
        /// What was found instead.
        found: String,
    },
    /// The index names a file that is not there.
    #[error("{}: names shard {shard:?}, which is not in this directory; download the missing file", index.display())]
    MissingShard {
        /// The index file.
        index: PathBuf,
        /// The file it names.
        shard: String,
    },
    /// The index names a file outside of the checkpoint's directory.
    #[error("{}: names shard {shard:?}; expected a plain file name inside this directory; the index is not to be trusted", index.display())]
    ShardOutside {
        /// The index file.
        index: PathBuf,
        /// The path it names.
        shard: String,
    },
    /// The file ends before its header does.
    #[error("{}: header is said to take {declared} bytes, but the file has {found} bytes in all; download it again", path.display())]
    HeaderTooLong {
        /// The file.
        path: PathBuf,
        /// Bytes of header that the first eight bytes announce.
        declared: u64,
        /// Size of the file in bytes.
        found: u64,
    },
    /// The header is not what the format says.
    #[error("{}: not a valid safetensors header: {found}; download the file again", path.display())]
    BadHeader {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// The file is no GGUF file, or a damaged one.
    #[error("{}: not a GGUF file that can be read: {found}", path.display())]
    BadGguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// The file's size is not the one its header describes.
    #[error("{}: expected {expected} bytes from its header, found {found}; the file is truncated or damaged, download it again", path.display())]
    WrongSize {
        /// The file.
        path: PathBuf,
        /// Size in bytes that the header describes.
        expected: u64,
        /// Size in bytes of the file.
        found: u64,
    },
    /// Two files hold a tensor of the same name.
    #[error("tensor {tensor:?}: expected in one file, found in {} and {}", first.display(), second.display())]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The index sends a tensor to a file that does not hold it.
    #[error("{}: sends tensor {tensor:?} to {shard:?}, which does not hold it; index and shards do not belong together", index.display())]
    NotInShard {
        /// The index file.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard the index names.
        shard: String,
    },
    /// No tensor of that name.
    #[error("{}: expected a tensor {tensor:?} of shape {expected:?}, found none of that name in {files} file(s)", dir.display())]
    MissingTensor {
        /// The checkpoint's directory.
        dir: PathBuf,
        /// The tensor asked for.
        tensor: String,
        /// The shape it should have.
        expected: Vec<usize>,
        /// How many files were searched.
        files: usize,
    },
    /// The tensor has another shape.
    #[error("{}: tensor {tensor:?}: expected shape {expected:?}, found {found:?}", file.display())]
    WrongShape {
        /// The file that holds it.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Shape asked for.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// The tensor has an element type that has no kernel.
    #[error("{}: tensor {tensor:?}: expected F32, F16 or BF16, found {found}", file.display())]
    UnsupportedDtype {
        /// The file that holds it.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The element type in the file.
        found: String,
    },
    /// An edit lies outside of the matrix.
    #[error("edit at row {row}, column {col}: expected inside {rows} x {cols}")]
    EditOutside {
        /// Row of the edit.
        row: usize,
        /// Column of the edit.
        col: usize,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// `SW_ISA` names an instruction set that this CPU does not have.
    #[error("SW_ISA: expected one of {supported}, found {found:?}; unset it to use the best")]
    UnknownIsa {
        /// The variable's value.
        found: String,
        /// What this CPU can serve.
        supported: String,
    },
}
