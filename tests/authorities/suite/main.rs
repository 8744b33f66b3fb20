//! The crate against authorities that are not ours, over sockets. `scripts/authorities` starts them and says where they
//! are.

mod authority;
mod burst;
mod cancelled;
mod code;
mod kind;
mod late;
mod lost;
mod naive;
mod processes;
mod proxy;
mod revoked;
mod world;
