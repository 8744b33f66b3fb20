//! Integration tests, a module per topic.

mod flight;
mod identity;
mod locks;
mod promises;
mod recovery;
mod storage;
mod world;
