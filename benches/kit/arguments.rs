//! What a measuring program is asked for.

use std::env;

/// Without the flag that `cargo bench` adds.
pub(crate) fn arguments() -> Vec<String> {
    env::args().skip(1).filter(|argument| argument != "--bench").collect()
}
