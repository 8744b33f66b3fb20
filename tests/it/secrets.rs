//! Nothing that we produce can be read for a secret.

use std::{
    error::Error as StdError,
    fmt::Debug,
    sync::{Arc, Mutex},
};

use tower::{Layer, ServiceExt};
use tower_token_refresh::{
    FetchContext, FetchError, Origin, Placement, RefreshFailure, Secret, Session, Token, TokenRefreshLayer,
    event::Event,
    source_fn,
    store::{MemoryStore, TokenStore},
    test_util::ModelApi,
};

use crate::world::{API, get, post};

const CANARY: &str = "canary-4f1d";

/// All that was printed.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<String>>);

impl Seen {
    fn debug(&self, value: &dyn Debug) {
        self.0.lock().unwrap().push_str(&format!("{value:?}\n{value:#?}\n"));
    }

    fn error(&self, error: &(dyn StdError + 'static)) {
        let mut link = Some(error);
        while let Some(error) = link {
            self.debug(&error);
            self.0.lock().unwrap().push_str(&format!("{error}\n"));
            link = error.source();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_secret_is_in_anything_that_we_print() {
    let seen = Seen::default();
    let told = seen.clone();
    let store = MemoryStore::new();
    let held = seen.clone();
    let source = source_fn(move |cx: FetchContext| {
        held.debug(&cx);
        async move {
            match cx.refresh_token() {
                None => Ok(Token::new(format!("{CANARY}-access")).refresh_token(format!("{CANARY}-refresh"))),
                Some(_) => Err(FetchError::login_required("the grant is over")),
            }
        }
    });
    let secret = Secret::from(format!("{CANARY}-password"));
    seen.debug(&secret);
    seen.debug(&source);
    for placement in [
        Placement::bearer(),
        Placement::basic(),
        Placement::header("x-token").unwrap(),
        Placement::query("access_token").unwrap(),
        Placement::custom(|_, _| Err("refused by the closure".into())),
    ] {
        let told = told.clone();
        let builder = Session::builder(source.clone())
            .store(store.clone())
            .placement(placement.clone())
            .observer(move |event: &Event<'_>| told.debug(event));
        seen.debug(&builder);
        let session = builder.build();
        let layer = TokenRefreshLayer::new(session.clone(), API.parse::<Origin>().unwrap());
        let authority = tower_token_refresh::test_util::ModelAuthority::new();
        let client = layer.layer(ModelApi::new(authority));
        session.logout().await.unwrap();
        session
            .login(Token::new(format!("{CANARY}-access")).refresh_token(format!("{CANARY}-refresh")))
            .await
            .unwrap();
        let future = client.clone().oneshot(post("/", "body"));
        seen.debug(&session.token().await.unwrap());
        match future.await {
            Ok(response) => {
                seen.debug(response.extensions().get::<RefreshFailure>().unwrap());
                seen.error(response.extensions().get::<RefreshFailure>().unwrap().error());
                seen.debug(&response);
            }
            Err(error) => seen.error(&*error),
        }
        let outside = client.clone().oneshot(get("/")).await;
        seen.debug(&outside.map(|response| response.status()));
        for bad in [format!("{CANARY}\r\nx"), format!("{CANARY}:\u{7f}")] {
            // Only a placement of the user's own takes any text.
            if let Err(error) = session.login(Token::new(bad)).await {
                seen.error(&error);
            }
        }
        seen.debug(&placement);
        seen.debug(&session);
        seen.debug(&layer);
        seen.debug(&client);
        seen.debug(&session.subscribe());
    }
    seen.debug(&store);
    seen.debug(&store.load().await.unwrap());
    let seen = seen.0.lock().unwrap();
    assert!(seen.len() > 1000, "there was something to look at");
    assert!(!seen.contains(CANARY), "a secret can be read");
    assert!(!seen.contains("canary"), "nor a part of one");
}
