//! A runtime for one input: nothing of it is left for the next.

use std::future::Future;

/// Runs a future where time stands still until everybody waits for it.
pub(crate) fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O can always be built")
        .block_on(future)
}
