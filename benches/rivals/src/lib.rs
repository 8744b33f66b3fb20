//! The same work through this crate's layer and through what people use or write instead.
//!
//! `rivals` has the contestants, a file each; `overhead`, `waiters` and `correctness` are the contests. The programs in
//! `bin` run them and print lines of `group`, `case`, `metric` and `value`, separated by tabs.

pub mod api;
pub mod authority;
pub mod contest;
pub mod correctness;
pub mod figures;
pub mod gate;
pub mod overhead;
pub mod print;
pub mod rivals;
pub mod runtime;
pub mod waiters;
pub mod work;
