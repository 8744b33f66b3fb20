//! Integration tests, a module per topic.

mod promises;
mod recovery;
mod runtimes;
mod stacks;
mod world;
