//! Integration tests, a module per topic.

mod flight;
mod identity;
mod promises;
mod recovery;
mod world;
