//! The crate against authorities that are not ours, over sockets. `scripts/authorities` starts them and says where they
//! are.

mod authority;
mod burst;
mod cancelled;
mod code;
mod late;
mod lost;
mod naive;
mod proxy;
mod restart;
mod revoked;
mod world;
