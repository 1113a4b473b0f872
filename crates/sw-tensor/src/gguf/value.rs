//! Metadata of a GGUF file.

/// The value of a metadata key. Integers and floating-point numbers of all widths are one kind each.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum GgufValue {
    /// A whole number.
    Int(i128),
    /// A number; exact also where the file has single precision.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A text.
    Text(String),
    /// A list of whole numbers.
    Ints(Vec<i64>),
    /// A list of numbers.
    Floats(Vec<f32>),
    /// A list of texts.
    Texts(Vec<String>),
}

impl GgufValue {
    /// What kind of value it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            GgufValue::Int(_) => "a whole number",
            GgufValue::Float(_) => "a number",
            GgufValue::Bool(_) => "true or false",
            GgufValue::Text(_) => "a text",
            GgufValue::Ints(_) => "a list of whole numbers",
            GgufValue::Floats(_) => "a list of numbers",
            GgufValue::Texts(_) => "a list of texts",
        }
    }

    /// The whole number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            GgufValue::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// The number, whole or not.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            GgufValue::Int(n) => Some(*n as f64),
            GgufValue::Float(x) => Some(*x),
            _ => None,
        }
    }

    /// True or false.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            GgufValue::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            GgufValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The list of whole numbers.
    pub fn as_ints(&self) -> Option<&[i64]> {
        match self {
            GgufValue::Ints(list) => Some(list),
            _ => None,
        }
    }

    /// The list of numbers.
    pub fn as_floats(&self) -> Option<&[f32]> {
        match self {
            GgufValue::Floats(list) => Some(list),
            _ => None,
        }
    }

    /// The list of texts.
    pub fn as_texts(&self) -> Option<&[String]> {
        match self {
            GgufValue::Texts(list) => Some(list),
            _ => None,
        }
    }
}
