//! Integration tests, a module per topic.

mod promises;
