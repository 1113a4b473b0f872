//! Coordinates that somebody wrote down.

use std::path::Path;

use serde_json::Value;
use sw_model::{Linear, WeightCoord};
use sw_tensor::files;

use crate::{Error, Result};

/// Coordinates as people and programs give them: `LAYER:ROW:COL,...` for weights of `down_proj`, or a JSON file with a
/// list of coordinates or a detection report. Sorted, each once.
///
/// # Errors
/// Neither a file nor of that form; a file without such a list; an entry without layer, row and col.
///
/// ```
/// let coords = sw_detect::coordinates("2:3968:7003")?;
/// assert_eq!(coords, [sw_model::WeightCoord::down(2, 3968, 7003)]);
/// # Ok::<(), sw_detect::Error>(())
/// ```
pub fn coordinates(given: &str) -> Result<Vec<WeightCoord>> {
    let wrong = |problem: String| Error::Given {
        given: given.to_owned(),
        problem,
    };
    let mut coords = if files::is_there(Path::new(given)).unwrap_or(false) {
        let text = files::read_text_at_most(given, 64 << 20).map_err(|e| wrong(e.to_string()))?;
        let value: Value =
            serde_json::from_str(&text).map_err(|e| wrong(format!("not valid JSON: {e}")))?;
        let list = value.get("super_weights").unwrap_or(&value);
        let list = list.as_array().ok_or_else(|| {
            wrong("expected a list of weights, or an object with one under super_weights".into())
        })?;
        list.iter()
            .map(|item| entry(item).map_err(wrong))
            .collect::<Result<Vec<_>>>()?
    } else {
        let item = |item: &str| {
            let parts: Result<Vec<usize>, _> = item.split(':').map(str::parse).collect();
            match parts.unwrap_or_default()[..] {
                [layer, row, col] => Ok(WeightCoord::down(layer, row, col)),
                _ => Err(wrong(
                    "no such file, and not of the form LAYER:ROW:COL,...".into(),
                )),
            }
        };
        given.split(',').map(item).collect::<Result<_>>()?
    };
    coords.sort_unstable();
    coords.dedup();
    Ok(coords)
}

/// One entry of a list; what else a report says of it is passed over.
fn entry(item: &Value) -> Result<WeightCoord, String> {
    let number = |key: &str| item[key].as_u64().map(|n| n as usize);
    let linear = match item.get("linear") {
        Some(linear) => serde_json::from_value(linear.clone())
            .map_err(|_| format!("expected a linear map such as down_proj, found {linear}"))?,
        None => Linear::Down,
    };
    match (number("layer"), number("row"), number("col")) {
        (Some(layer), Some(row), Some(col)) => Ok(WeightCoord {
            layer,
            linear,
            expert: number("expert"),
            row,
            col,
        }),
        _ => Err(format!(
            "expected layer, row and col in each weight, found {item}"
        )),
    }
}
