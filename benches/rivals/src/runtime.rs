use tokio::runtime::{Builder, Runtime};

/// One thread, so that the order of things is the program's and counts repeat.
pub fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}
