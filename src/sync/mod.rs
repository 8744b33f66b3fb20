//! What threads share, under one name: the libraries' own, or what stands for it in a model check.
//!
//! `scripts/loom` sets the cfg. Nothing else does, and no build of the library has loom in it.

#[cfg(all(test, token_refresh_loom))]
mod checked;
#[cfg(all(test, token_refresh_loom))]
pub(crate) mod kit;
#[cfg(test)]
pub(crate) mod turns;

#[cfg(not(all(test, token_refresh_loom)))]
pub(crate) use {
    arc_swap::{ArcSwapOption, Guard},
    std::sync::{Arc, Mutex, MutexGuard, atomic},
    tokio::sync::oneshot,
};
#[cfg(all(test, token_refresh_loom))]
pub(crate) use {
    checked::{
        cell::{ArcSwapOption, Guard},
        oneshot,
    },
    loom::sync::{Arc, Mutex, MutexGuard, atomic},
};

pub(crate) use std::sync::PoisonError;

#[cfg(test)]
pub(crate) use self::turns::task;

/// What is to be spawned. Tests put its polls into an order of their own.
#[cfg(not(test))]
#[inline(always)]
pub(crate) fn task<F>(future: F) -> F {
    future
}
