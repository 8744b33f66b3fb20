//! The table.

use std::{error::Error, iter, time::Duration};

use crate::{
    options::Options,
    run::{Outcome, Variant},
};

pub(crate) fn print(outcomes: &[Outcome], options: &Options) {
    println!(
        "\n{:<20} {:>11} {:>9} {:>13} {:>15} {:>10} {:>10} {:>12}",
        "", "token calls", "answered", "returned 403", "never answered", "p50", "p99", "connections"
    );
    for outcome in outcomes {
        println!(
            "{:<20} {:>11} {:>9} {:>13} {:>15} {:>10} {:>10} {:>12}",
            outcome.variant.name(),
            grouped(outcome.token_calls),
            grouped(outcome.answered()),
            grouped(outcome.refused),
            grouped(outcome.never),
            percentile(&outcome.latencies, 50),
            percentile(&outcome.latencies, 99),
            grouped(outcome.connections),
        );
    }
    println!();
    for outcome in outcomes {
        if let Some((failed, error)) = &outcome.failed {
            println!(
                "{}: {} calls failed, one of them with: {}",
                outcome.variant.name(),
                grouped(*failed),
                with_causes(&**error)
            );
        }
        if outcome.first_launch_was_anonymous {
            println!("{}: its first launch sent `Basic Og==`, an empty token.", outcome.variant.name());
        }
    }
    println!("{NOTES}");
    if options.needs_http2() {
        println!("HTTP/2: at {} requests a connection each would be too many.", grouped(options.requests));
    }
}

const NOTES: &str = "\
The server keeps the newest token alive only. Gates order the storm: every refusal comes before the first token answer,
every token answer before the first resend is judged. A mutex lets one token call through at a time, so its gate holds
the first alone and the others follow one by one; without the gate on the resends a few of its requests would slip
through before the next token call. Latencies are of the answered calls and include the time at the gates.";

/// Whether the layer kept its promise: everybody answered, with one token call.
pub(crate) fn ours_held(outcomes: &[Outcome], requests: usize) -> bool {
    outcomes.iter().any(|outcome| {
        outcome.variant == Variant::Ours && outcome.answered() == requests && outcome.token_calls == 1
    })
}

fn percentile(sorted: &[Duration], percent: usize) -> String {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).map_or("–".to_owned(), |latency| duration(*latency))
}

/// With the unit that suits it.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

/// An error and what has caused it.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = iter::successors(Some(error), |&error| error.source()).map(ToString::to_string);
    causes.collect::<Vec<_>>().join(": ")
}

/// 100000 as 100,000.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}
