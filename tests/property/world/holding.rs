//! Where calls are held until a step lets one of them go.

use std::sync::{Arc, Mutex};

use tower_token_refresh::test_util::Gate;

#[derive(Clone, Default)]
pub(super) struct Holding(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    held: Vec<Gate>,
    is_open: bool,
}

impl Holding {
    /// Holds whoever comes here.
    pub(super) async fn pass(&self) {
        let gate = Gate::new();
        {
            let mut inner = self.0.lock().unwrap();
            if inner.is_open {
                return;
            }
            inner.held.push(gate.clone());
        }
        gate.pass().await;
    }

    /// Lets one of those go who are held.
    pub(super) fn release(&self, which: usize) {
        let mut inner = self.0.lock().unwrap();
        if let Some(which) = which.checked_rem(inner.held.len()) {
            inner.held.remove(which).open();
        }
    }

    /// Holds nobody any more.
    pub(super) fn open(&self) {
        let mut inner = self.0.lock().unwrap();
        inner.is_open = true;
        inner.held.drain(..).for_each(|gate| gate.open());
    }
}
