//! What was found before is found no more; and every target accepts its seeds, so that it reaches more than the first check.

use std::collections::BTreeSet;

use sw_fuzz::{Mutator, TARGETS};

#[test]
fn regressions_stay_mended() {
    for target in TARGETS {
        for (path, bytes) in target.regressions() {
            let accepted = (target.run)(&bytes);
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // A file is called after what must become of it.
            if name.starts_with("sound") || name.starts_with("refused") {
                assert_eq!(accepted, name.starts_with("sound"), "{}", path.display());
            }
        }
    }
}

#[test]
fn every_folder_of_regressions_has_a_target() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let names: BTreeSet<_> = TARGETS.iter().map(|t| t.name.to_owned()).collect();
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(names.contains(&name), "{name}");
    }
}

#[test]
fn seeds_are_accepted_and_mutants_of_them_sometimes() {
    for target in TARGETS {
        let seeds = target.seeds();
        assert!(!seeds.is_empty(), "{}", target.name);
        let is_sound = |bytes: &Vec<u8>| {
            // Those that are compressed are seeds before.
            target.form == sw_fuzz::Form::Gzip || (target.run)(bytes)
        };
        assert!(
            seeds.iter().any(is_sound),
            "{}: no seed is accepted",
            target.name
        );
        let mut mutator = Mutator::new(target.form, seeds, 1);
        let accepted = (0..200).filter(|_| (target.run)(&mutator.input())).count();
        assert!(accepted < 200, "{}: everything is accepted", target.name);
        assert!(accepted > 0, "{}: nothing is accepted", target.name);
    }
}
