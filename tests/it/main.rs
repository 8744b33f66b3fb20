//! Integration tests, a module per topic.

mod flight;
mod identity;
mod locks;
mod promises;
mod recovery;
mod reentry;
mod runtimes;
mod secrets;
mod stacks;
mod storage;
mod world;
