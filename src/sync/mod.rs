//! What threads share, under one name: the standard library's, or loom's where the model check runs.
//!
//! `scripts/loom` sets the cfg. Nothing else does, and no build of the library has loom in it.

#[cfg(all(test, token_refresh_loom))]
pub(crate) mod kit;

#[cfg(all(test, token_refresh_loom))]
pub(crate) use loom::sync::{Arc, Mutex};
pub(crate) use std::sync::PoisonError;
#[cfg(not(all(test, token_refresh_loom)))]
pub(crate) use std::sync::{Arc, Mutex};
