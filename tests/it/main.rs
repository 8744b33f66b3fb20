//! Integration tests, a module per topic.

mod promises;
mod recovery;
mod reentry;
mod runtimes;
mod stacks;
mod world;
