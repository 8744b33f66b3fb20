//! Panics in other people's code.

use std::{
    any::Any,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Runs code of others. A panic in it is its own affair.
pub(crate) fn isolated(call: impl FnOnce()) {
    if let Err(thrown) = catch_unwind(AssertUnwindSafe(call)) {
        discard(thrown);
    }
}

/// Drops what a panic has thrown: that may be anything, and panic itself.
pub(crate) fn discard(thrown: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(thrown))) {
        // It might go on like that.
        mem::forget(again);
    }
}
