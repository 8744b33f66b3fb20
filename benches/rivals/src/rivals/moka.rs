use std::sync::Arc;

use moka::future::Cache;

use super::login::Login;
use crate::{
    authority::{Authority, Failure},
    contest::{Replace, Tokens},
};

/// A moka cache with one entry: `try_get_with` to get it, `invalidate` when it was refused.
#[derive(Debug, Clone)]
pub struct Moka {
    login: Login,
    cache: Cache<(), Arc<str>>,
}

impl Tokens for Moka {
    const NAME: &'static str = "moka";

    type Token = Arc<str>;

    fn new(authority: &Authority) -> Self {
        Moka { login: Login::new(authority), cache: Cache::new(1) }
    }

    async fn token(&self) -> Result<Arc<str>, Failure> {
        self.cache.try_get_with((), self.login.fetch()).await.map_err(|failure: Arc<Failure>| *failure)
    }
}

impl Replace for Moka {
    async fn replace(&self, _: &Arc<str>) -> Result<Arc<str>, Failure> {
        self.cache.invalidate(&()).await;
        self.token().await
    }
}
