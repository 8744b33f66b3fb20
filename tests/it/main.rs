//! Integration tests, a module per topic.

mod answers;
mod attach;
mod attack;
mod flight;
mod held;
mod identity;
mod idp;
mod input;
mod locks;
mod logins;
mod oauth2;
mod promises;
mod recovery;
mod reentry;
mod replay;
mod resend;
mod runtimes;
mod scope;
mod script;
mod secrets;
mod sessions;
mod sources;
mod stacks;
mod storage;
mod world;
