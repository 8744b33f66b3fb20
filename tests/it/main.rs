//! Integration tests, a module per topic.

mod promises;
mod recovery;
mod stacks;
mod world;
