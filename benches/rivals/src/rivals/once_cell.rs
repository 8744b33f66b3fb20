use std::sync::{Arc, RwLock};

use tokio::sync::OnceCell;

use super::login::Login;
use crate::{
    authority::{Authority, Failure},
    contest::{Replace, Tokens},
};

/// A tokio `OnceCell` for each token; a refused token's cell is exchanged for an empty one.
#[derive(Debug, Clone)]
pub struct CellForEach {
    login: Login,
    cell: Arc<RwLock<Arc<OnceCell<Arc<str>>>>>,
}

impl Tokens for CellForEach {
    const NAME: &'static str = "tokio-once-cell";

    type Token = Arc<str>;

    fn new(authority: &Authority) -> Self {
        CellForEach { login: Login::new(authority), cell: Arc::default() }
    }

    async fn token(&self) -> Result<Arc<str>, Failure> {
        let cell = self.cell.read().expect("nobody panics with it").clone();
        cell.get_or_try_init(|| self.login.fetch()).await.cloned()
    }
}

impl Replace for CellForEach {
    async fn replace(&self, refused: &Arc<str>) -> Result<Arc<str>, Failure> {
        {
            let mut cell = self.cell.write().expect("nobody panics with it");
            if cell.get() == Some(refused) {
                *cell = Arc::default();
            }
        }
        self.token().await
    }
}
