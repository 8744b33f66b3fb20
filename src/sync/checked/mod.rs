//! What loom has not, made of what it has.

pub(crate) mod cell;
pub(crate) mod oneshot;
