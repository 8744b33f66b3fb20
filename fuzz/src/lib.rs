//! The fuzz targets of tower-token-refresh, as functions of bytes.
//!
//! Each speaks to the public API only, holds what it does against an oracle of its own or against another way to the
//! same end, and panics where the two differ. `scripts/fuzz` runs them under libFuzzer; `cargo test` calls them with
//! the seeds and with mutations of these.
#![forbid(unsafe_code)]

mod answers;
mod assumed_origins;
mod challenges;
mod feed;
mod file_store;
mod grpc_status;
mod json_codes;
mod message;
mod origins;
mod plain;
mod replay;
mod runtime;
mod shown;
#[cfg(test)]
mod smoke;
mod steps;

pub use self::{
    answers::answers, assumed_origins::assumed_origins, challenges::challenges, file_store::file_store,
    grpc_status::grpc_status, json_codes::json_codes, origins::origins, replay::replay,
};
