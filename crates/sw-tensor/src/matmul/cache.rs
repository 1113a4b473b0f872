//! Cache sizes of this machine. They choose block sizes only, never a result.

use std::sync::OnceLock;

/// Bytes of second-level cache of one core; 1 MiB where the system does not say.
pub(super) fn l2() -> usize {
    static L2: OnceLock<usize> = OnceLock::new();
    *L2.get_or_init(|| from_sysfs(2).unwrap_or(1 << 20))
}

/// What Linux says about the data cache of that level of the first core.
fn from_sysfs(level: u32) -> Option<usize> {
    (0..8).find_map(|index| {
        let read = |name| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}");
            std::fs::read_to_string(path)
                .ok()
                .map(|text| text.trim().to_owned())
        };
        let holds_data = read("type")? != "Instruction";
        (holds_data && read("level")? == level.to_string())
            .then(|| size(&read("size")?))
            .flatten()
    })
}

/// "2048K" in bytes, if it is plausible.
fn size(text: &str) -> Option<usize> {
    let kib: usize = text.strip_suffix('K')?.parse().ok()?;
    (16..=1 << 20).contains(&kib).then_some(kib << 10)
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_read_and_implausible_ones_refused() {
        assert_eq!(super::size("2048K"), Some(2 << 20));
        for text in ["", "K", "0K", "2M", "99999999999K", "-1K"] {
            assert_eq!(super::size(text), None, "{text}");
        }
        assert!(super::l2() >= 16 << 10);
    }
}
