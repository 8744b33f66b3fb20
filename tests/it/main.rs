//! Integration tests, a module per topic.

mod answers;
mod attach;
mod attack;
mod flight;
mod held;
mod identity;
mod input;
mod locks;
mod peek;
mod promises;
mod recovery;
mod reentry;
mod renewal;
mod replay;
mod resend;
mod runtimes;
mod scope;
mod script;
mod secrets;
mod sessions;
mod stacks;
mod start;
mod storage;
mod tips;
mod world;
