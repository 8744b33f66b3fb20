//! Prints how long the last of 1,000 waiters waits in a busy runtime after the authority has answered.

use std::time::Duration;

use rivals::{print::line, waiters::TOKENS};

const WAITERS: usize = 1_000;
const ROUNDS: usize = 21;

fn main() {
    let mut times: Vec<Vec<Duration>> = vec![Vec::with_capacity(ROUNDS); TOKENS.len()];
    // Round by round, so that a busy minute of the machine is everybody's.
    for _ in 0..ROUNDS {
        for (tokens, times) in TOKENS.iter().zip(&mut times) {
            times.push((tokens.last_served)(WAITERS));
        }
    }
    for (tokens, mut times) in TOKENS.iter().zip(times) {
        times.sort();
        let median = times[ROUNDS / 2].as_secs_f64() * 1e3;
        line("waiters-busy/1000", tokens.name, "milliseconds", format!("{median:.3}"));
    }
}
