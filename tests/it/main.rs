//! Integration tests, a module per topic.

mod answers;
mod attach;
mod held;
mod input;
mod promises;
mod recovery;
mod replay;
mod resend;
mod scope;
mod script;
mod sessions;
mod world;
