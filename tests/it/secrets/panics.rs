//! Foreign code that panics while it holds secrets, or with one as its last word.

use std::panic::resume_unwind;

use tower::{Layer, ServiceExt};
use tower_token_refresh::{
    BoxError, FetchContext, FetchError, Placement, RefreshFailure, Session, Token, TokenRefreshLayer,
    TokenSource,
    event::Event,
    source::Verification,
    store::{Lease, MemoryStore, Record, TokenStore},
    test_util::{ModelApi, ModelAuthority},
};

use super::Seen;
use crate::world::{get, origin};

/// Where the panic is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Source,
    Verify,
    Load,
    Save,
    Lock,
    Changed,
    Observer,
    Revoke,
    Placement,
}

use Place::{Changed, Load, Lock, Observer, Revoke, Save, Source, Verify};

/// Foreign code of every kind that panics in one place, in its own way.
#[derive(Clone)]
struct Foreign {
    place: Place,
    way: fn(),
    memory: MemoryStore,
}

/// The hook prints what is said, where, and the way there.
fn said() {
    panic!("a bug in foreign code");
}

/// What is thrown is for whoever catches it.
fn thrown() {
    resume_unwind(Box::new("canary-thrown".to_owned()));
}

impl Foreign {
    fn new(place: Place, way: fn()) -> Self {
        Foreign { place, way, memory: MemoryStore::new() }
    }

    fn at(&self, place: Place) {
        if self.place == place {
            (self.way)();
        }
    }

    fn session(&self, seen: &Seen) -> Session {
        let (observing, revoking, placing) = (self.clone(), self.clone(), self.clone());
        let told = seen.clone();
        Session::builder(self.clone())
            .store(self.clone())
            .observer(move |event: &Event<'_>| {
                told.debug(event);
                if let Event::RefreshFailed { error, .. } | Event::StoreFailed { error, .. } = event {
                    told.error(*error);
                }
                observing.at(Observer);
            })
            .revoke_with(move |token| {
                let foreign = revoking.clone();
                async move {
                    let _held = token;
                    foreign.at(Revoke);
                }
            })
            .placement(Placement::custom(move |_, _| {
                placing.at(Place::Placement);
                Ok(())
            }))
            .build()
    }
}

fn canaries() -> Token {
    Token::new("canary-access").refresh_token("canary-refresh")
}

impl TokenSource for Foreign {
    async fn fetch(&self, cx: FetchContext) -> Result<Token, FetchError> {
        let _held = (cx, canaries());
        self.at(Source);
        Ok(canaries())
    }

    async fn verify(&self, _: &Token) -> Verification {
        self.at(Verify);
        Verification::Valid
    }
}

impl TokenStore for Foreign {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        self.at(Load);
        self.memory.load().await
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        self.at(Save);
        self.memory.save(record, fence).await
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        self.at(Lock);
        self.memory.lock().await
    }

    async fn changed(&self, known: u64) {
        self.at(Changed);
        self.memory.changed(known).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_foreign_code_shows_no_secret_and_goes_no_further() {
    let seen = Seen::default();
    for place in [Source, Verify, Load, Save, Lock, Changed, Observer, Revoke] {
        for way in [said, thrown] {
            let foreign = Foreign::new(place, way);
            let session = foreign.session(&seen);
            let client =
                TokenRefreshLayer::new(session.clone(), origin()).layer(ModelApi::new(ModelAuthority::new()));
            for done in [session.start().await, session.login(canaries()).await, session.start().await] {
                seen.debug(&done);
            }
            seen.debug(&session.refresh().await);
            match client.oneshot(get("/")).await {
                Ok(response) => {
                    seen.debug(&response);
                    if let Some(failure) = response.extensions().get::<RefreshFailure>() {
                        seen.error(failure.error());
                    }
                }
                Err(error) => seen.error(&*error),
            }
            for done in [session.logout().await, session.settle().await] {
                if let Err(error) = done {
                    seen.error(&error);
                }
            }
        }
    }
    seen.has_no_canary_among(&["kind: Panic", "kind: Store", "Issued {", "LoggedOut"]);
}

/// It runs in the caller's own call, to which its panic belongs.
#[tokio::test(start_paused = true)]
async fn a_panic_of_a_placement_is_the_callers_and_the_session_goes_on() {
    let seen = Seen::default();
    let session = Foreign::new(Place::Placement, said).session(&seen);
    let layer = TokenRefreshLayer::new(session.clone(), origin());
    let call = tokio::spawn(layer.layer(ModelApi::new(ModelAuthority::new())).oneshot(get("/")));
    let panic = call.await.unwrap_err();
    assert!(panic.is_panic());
    seen.debug(&panic);
    seen.debug(&session.refresh().await.unwrap());
    seen.has_no_canary_among(&["a bug in foreign code", "Token {"]);
}
