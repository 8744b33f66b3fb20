//! The resource server fails.

use futures_util::future::join_all;
use http::StatusCode;
use http_body_util::BodyExt;
use hyper_util::client::legacy;
use tower::timeout::error::Elapsed;
use tower_token_refresh::{BoxError, Error, Outcome};

use super::{
    http1::{
        Act::{self, Endless, Reset, Send, Silence, Trickle},
        Answer,
    },
    scene::Scene,
};
use crate::kit::within;

impl Scene {
    /// The same with a recovery behind it, so that the lengths of a refusal and of what follows it are known.
    async fn measured() -> (Self, [(usize, usize); 2]) {
        let scene = Self::start().await;
        scene.place.authority.revoke_access();
        scene.place.success(2).await;
        let lengths = [0, 1].map(|number| scene.api.lengths(number));
        (scene, lengths)
    }
}

/// The failure of a connection, which is the caller's, and not a word of ours.
fn is_the_clients_own(error: &BoxError) -> bool {
    Error::find(&**error).is_none() && (error.is::<legacy::Error>() || error.is::<Elapsed>())
}

/// Without a head there is no refusal; with one it is recovered from, whatever becomes of its body.
#[tokio::test]
async fn a_refusal_that_is_closed_at_any_byte_is_the_callers_error_or_recovered_from() {
    within(async {
        let (Scene { place, api, .. }, [(head, body), _]) = Scene::measured().await;
        for at in 0..head + body {
            place.authority.revoke_access();
            api.fault(move |answer| vec![Send(answer.cut(at))]);
            let before = place.refreshes();
            if at < head {
                assert!(is_the_clients_own(&place.get().await.unwrap_err()), "{at}");
                assert_eq!(place.refreshes(), before, "{at}");
                assert_eq!(place.success(2).await, 1, "{at}");
            } else {
                assert_eq!(place.success(2).await, 1, "{at}");
            }
        }
        assert_eq!(place.authority.counts().presented_again(), 0);
    })
    .await;
}

/// A reset may overtake the head that was sent before it.
#[tokio::test]
async fn a_refusal_that_is_reset_at_any_byte_costs_one_refresh_at_most() {
    within(async {
        let (Scene { place, api, .. }, [(head, body), _]) = Scene::measured().await;
        for at in 0..head + body {
            place.authority.revoke_access();
            api.fault(move |answer| vec![Send(answer.cut(at)), Reset]);
            let before = place.refreshes();
            match place.get().await {
                Ok(response) => assert_eq!(response.status(), StatusCode::OK, "{at}"),
                Err(error) => assert!(is_the_clients_own(&error), "{at}"),
            }
            place.get().await.unwrap();
            assert_eq!(place.refreshes(), before + 1, "{at}");
        }
        assert_eq!(place.authority.counts().presented_again(), 0);
    })
    .await;
}

#[tokio::test]
async fn an_answer_to_the_resend_that_is_closed_at_any_byte_is_final() {
    within(async {
        let (Scene { place, api, .. }, [_, (head, body)]) = Scene::measured().await;
        for at in 0..head + body {
            // A resend that breaks off cannot tell what the refresh was good for, so a refusal at once would be damped.
            place.cool_down();
            place.authority.revoke_access();
            api.no_fault();
            api.fault(move |answer| vec![Send(answer.cut(at))]);
            let before = place.refreshes();
            match place.get().await {
                Ok(response) => {
                    assert!(at >= head, "{at}");
                    assert_eq!(response.extensions().get::<Outcome>().unwrap().attempts(), 2);
                    assert!(response.into_body().collect().await.is_err(), "the caller sees that it is cut");
                }
                Err(error) => assert!(at < head && is_the_clients_own(&error), "{at}"),
            }
            assert_eq!(place.success(1).await, 0, "{at}");
            assert_eq!(place.refreshes(), before + 1, "{at}");
        }
    })
    .await;
}

/// What becomes of a request whose refusal looks like this.
#[derive(Clone, Copy, PartialEq)]
enum Expected {
    Recovery,
    Failure,
}
use Expected::{Failure, Recovery};

type Nonsense = fn(Answer) -> Vec<Act>;

const REFUSED: &[u8] = b"HTTP/1.1 401 Unauthorized\r\n";

fn refused(rest: &str) -> Vec<u8> {
    [REFUSED, rest.as_bytes()].concat()
}

const NONSENSE: [(&str, Expected, Nonsense); 14] = [
    ("byte by byte", Recovery, |it| vec![Trickle(it.whole())]),
    ("without a length", Recovery, |_| vec![Send(refused("\r\nno"))]),
    ("more is announced than comes", Recovery, |_| vec![Send(refused("content-length: 99\r\n\r\nno"))]),
    ("the body never comes", Recovery, |_| vec![Send(refused("content-length: 99\r\n\r\n")), Silence]),
    ("less is announced", Recovery, |_| vec![Send(refused("content-length: 1\r\n\r\nno"))]),
    ("a broken body", Recovery, |_| vec![Send(refused("transfer-encoding: chunked\r\n\r\nno"))]),
    ("a body without an end", Recovery, |_| vec![Send(refused("\r\n")), Endless(&[b'x'; 16 * 1024])]),
    ("a challenge without an end", Recovery, |_| {
        vec![Send(refused("www-authenticate: Bearer error=\"invalid_token\r\ncontent-length: 0\r\n\r\n"))]
    }),
    ("two lengths", Failure, |_| vec![Send(refused("content-length: 1\r\ncontent-length: 2\r\n\r\nno"))]),
    ("a mebibyte of headers", Failure, |_| {
        vec![Send(refused(&format!("{}\r\n", "x-pad: x\r\n".repeat(100_000)))), Silence]
    }),
    ("a head without an end", Failure, |_| vec![Send(REFUSED.to_vec()), Endless(b"x-pad: x\r\n")]),
    ("another protocol", Failure, |_| vec![Send(b"SSH-2.0-server\r\n".to_vec()), Silence]),
    ("half a head", Failure, |_| vec![Trickle(REFUSED.to_vec()), Silence]),
    ("no answer", Failure, |_| vec![Silence]),
];

/// All at once, each in a scene of its own: some are waited for in vain.
#[tokio::test]
async fn no_nonsense_of_a_resource_server_costs_more_than_its_own_request() {
    within(async {
        join_all(NONSENSE.map(|(name, expected, fault)| async move {
            let Scene { place, api, .. } = Scene::start().await;
            place.authority.revoke_access();
            api.fault(fault);
            if expected == Failure {
                assert!(is_the_clients_own(&place.get_in_vain().await.expect_err(name)), "{name}");
                assert_eq!(place.refreshes(), 0, "{name}");
            }
            assert_eq!(place.success(2).await, 1, "{name}");
            assert_eq!(place.success(1).await, 0, "{name}");
            assert!(api.traffic().sent < 32 << 20, "{name}");
            drop(place);
            api.deserted().await;
        }))
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_resource_server_that_is_silent_at_the_resend_costs_no_second_refresh() {
    within(async {
        let Scene { place, api, .. } = Scene::start().await;
        place.authority.revoke_access();
        api.no_fault();
        api.fault(|_| vec![Silence]);
        assert!(place.get_in_vain().await.unwrap_err().is::<Elapsed>());
        assert_eq!(place.refreshes(), 1);
        assert_eq!(place.success(1).await, 0);
    })
    .await;
}
