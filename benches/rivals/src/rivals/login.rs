use std::sync::{Arc, Mutex};

use crate::authority::{Authority, Failure};

/// A client's side of the authority: it keeps the refresh token from one fetch to the next.
#[derive(Debug, Clone)]
pub struct Login {
    authority: Authority,
    refresh: Arc<Mutex<Option<String>>>,
}

impl Login {
    pub fn new(authority: &Authority) -> Self {
        Login { authority: authority.clone(), refresh: Arc::default() }
    }

    pub async fn fetch<T: From<String>>(&self) -> Result<T, Failure> {
        let refresh = self.refresh.lock().expect("nobody panics with it").clone();
        let grant = self.authority.fetch(refresh.as_deref()).await?;
        *self.refresh.lock().expect("nobody panics with it") = Some(grant.refresh);
        Ok(grant.access.into())
    }
}
