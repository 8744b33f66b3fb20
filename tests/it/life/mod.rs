//! The whole life of a token, in simulated time: months of use, hours of outage, processes that come and go.
//!
//! Most tests print a figure: `cargo test --all-features --test it life -- --nocapture`.

mod changes;
mod days;
mod exit;
mod outage;
mod refusal;
mod unsaved;
