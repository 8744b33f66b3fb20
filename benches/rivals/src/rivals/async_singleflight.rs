use std::sync::{Arc, RwLock};

use async_singleflight::DefaultGroup;

use super::login::Login;
use crate::{
    authority::{Authority, Failure},
    contest::{Replace, Tokens},
};

/// The group of async_singleflight around the fetch, and the token beside it.
#[derive(Debug, Clone)]
pub struct AsyncSingleflight {
    login: Login,
    present: Arc<RwLock<Option<Arc<str>>>>,
    group: Arc<DefaultGroup<Arc<str>, Failure>>,
}

impl AsyncSingleflight {
    fn present(&self) -> Option<Arc<str>> {
        self.present.read().expect("nobody panics with it").clone()
    }

    async fn fetch(&self) -> Result<Arc<str>, Failure> {
        let fetch = async {
            let token: Arc<str> = self.login.fetch().await?;
            *self.present.write().expect("nobody panics with it") = Some(token.clone());
            Ok(token)
        };
        // All but the first learn only that it failed.
        self.group.work("token", fetch).await.map_err(|failure| failure.unwrap_or(Failure))
    }
}

impl Tokens for AsyncSingleflight {
    const NAME: &'static str = "async_singleflight";

    type Token = Arc<str>;

    fn new(authority: &Authority) -> Self {
        AsyncSingleflight { login: Login::new(authority), present: Arc::default(), group: Arc::default() }
    }

    async fn token(&self) -> Result<Arc<str>, Failure> {
        match self.present() {
            Some(token) => Ok(token),
            None => self.fetch().await,
        }
    }
}

impl Replace for AsyncSingleflight {
    async fn replace(&self, refused: &Arc<str>) -> Result<Arc<str>, Failure> {
        match self.present() {
            Some(token) if token != *refused => Ok(token),
            _ => self.fetch().await,
        }
    }
}
