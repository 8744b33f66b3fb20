//! Whatever happens in whatever order, the rules hold: random steps on paused time, checked from the outside.
//!
//! `PROPTEST_CASES` says how many runs there are, `PROPERTY_STEPS` how many steps each of them has at most, and
//! `PROPTEST_RNG_SEED` which ones. For hours of it:
//!
//! ```sh
//! PROPTEST_CASES=10000 PROPERTY_STEPS=3000 cargo test --release --all-features --test property random
//! ```
//!
//! A run that fails is made as short as possible and printed. It belongs into `replay`, as a test with a name.

mod checks;
mod replay;
mod steps;
mod world;

use std::env;

use proptest::prelude::*;

const CASES: u32 = 64;
const STEPS: usize = 300;

fn config() -> ProptestConfig {
    let given = ProptestConfig::default();
    let cases = if env::var_os("PROPTEST_CASES").is_some() { given.cases } else { CASES };
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 20_000, ..given }
}

fn most_steps() -> usize {
    let given = env::var("PROPERTY_STEPS").ok();
    given.map_or(STEPS, |steps| steps.parse().expect("PROPERTY_STEPS is a number"))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_steps_break_no_rule(config in steps::configs(), steps in steps::steps(most_steps())) {
        let run = world::run(config, &steps);
        prop_assert!(run.is_ok(), "{run:?}\n{config:?}\n{steps:?}");
    }
}
