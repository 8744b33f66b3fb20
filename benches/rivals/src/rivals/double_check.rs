use std::sync::Arc;

use tokio::sync::{Mutex, RwLock};

use super::login::Login;
use crate::{
    authority::{Authority, Failure},
    contest::{Replace, Tokens},
};

/// A lock to read the token, and a tokio mutex around the fetch: whoever gets it looks again before fetching.
#[derive(Debug, Clone)]
pub struct DoubleCheck<T> {
    login: Login,
    present: Arc<RwLock<Option<T>>>,
    fetching: Arc<Mutex<()>>,
}

impl<T: From<String> + AsRef<str> + Clone + PartialEq + Send + Sync + 'static> DoubleCheck<T> {
    async fn other_than(&self, refused: Option<&T>) -> Result<T, Failure> {
        let _fetching = self.fetching.lock().await;
        let present = self.present.read().await.clone();
        match present {
            Some(token) if Some(&token) != refused => Ok(token),
            _ => {
                let token: T = self.login.fetch().await?;
                *self.present.write().await = Some(token.clone());
                Ok(token)
            }
        }
    }
}

impl<T: From<String> + AsRef<str> + Clone + PartialEq + Send + Sync + 'static> Tokens for DoubleCheck<T> {
    const NAME: &'static str = "tokio-mutex-double-check";

    type Token = T;

    fn new(authority: &Authority) -> Self {
        DoubleCheck { login: Login::new(authority), present: Arc::default(), fetching: Arc::default() }
    }

    async fn token(&self) -> Result<T, Failure> {
        let present = self.present.read().await.clone();
        match present {
            Some(token) => Ok(token),
            None => self.other_than(None).await,
        }
    }
}

impl<T: From<String> + AsRef<str> + Clone + PartialEq + Send + Sync + 'static> Replace for DoubleCheck<T> {
    async fn replace(&self, refused: &T) -> Result<T, Failure> {
        self.other_than(Some(refused)).await
    }
}
