//! Integration tests, a module per topic.

mod answers;
mod attach;
mod file_store;
mod flight;
mod held;
mod identity;
mod input;
mod locks;
mod promises;
mod recovery;
mod reentry;
mod replay;
mod resend;
mod runtimes;
mod scope;
mod script;
mod secrets;
mod session_map;
mod sessions;
mod stacks;
mod storage;
mod world;
