//! The token endpoint fails.

use std::net::Ipv4Addr;

use futures_util::future::join_all;
use tokio::net::TcpListener;
use tower_token_refresh::{
    ErrorKind,
    test_util::{Endpoint, ModelApi},
};

use super::{
    http1::{
        Act::{self, Endless, Reset, Send, Silence, Trickle},
        Answer, Peer,
    },
    place::{IN_VAIN, Place, SOON},
    scene::Scene,
};
use crate::kit::{Http, within};

impl Scene {
    /// An answer that is none, and one request after another.
    async fn survives(
        self,
        name: &str,
        fault: impl FnOnce(Answer) -> Vec<Act> + std::marker::Send + 'static,
    ) -> Self {
        self.place.authority.revoke_access();
        self.issuer.fault(fault);
        let failure = self.place.failure().await;
        assert_eq!(self.place.refreshes(), 1, "{name}");
        self.place.recovers(&failure).await;
        self
    }
}

/// Whatever was presented without an answer is presented once more, and nothing else is.
async fn broken_off_at_each_byte(reset: bool) {
    let Scene { place, issuer, .. } = Scene::start().await;
    place.authority.revoke_access();
    place.success(2).await;
    let (head, body) = issuer.lengths(0);
    for at in 0..head + body {
        place.authority.revoke_access();
        issuer.fault(move |answer| {
            let sent = Send(answer.cut(at));
            if reset { vec![sent, Reset] } else { vec![sent] }
        });
        assert_eq!(place.failure().await.kind(), ErrorKind::Transient, "{at}");
        place.cool_down();
        assert_eq!(place.success(2).await, 1, "{at}");
    }
    let counts = place.authority.counts();
    assert!(counts.presented.values().skip(1).all(|times| *times == 2));
    assert_eq!((counts.logins, counts.family_deaths, counts.refreshes), (1, 0, 1 + 2 * (head + body)));
}

#[tokio::test]
async fn an_answer_that_is_closed_at_any_byte_ends_no_session() {
    within(broken_off_at_each_byte(false)).await;
}

#[tokio::test]
async fn an_answer_that_is_reset_at_any_byte_ends_no_session() {
    within(broken_off_at_each_byte(true)).await;
}

type Nonsense = fn(Answer) -> Vec<Act>;

const NONSENSE: [(&str, Nonsense); 20] = [
    ("more is announced than comes", |it| vec![Send(it.under("content-length: 999"))]),
    ("more is announced and waited for", |it| vec![Send(it.under("content-length: 999")), Silence]),
    ("less is announced", |it| vec![Send(it.under("content-length: 5"))]),
    ("nothing is announced", |it| vec![Send(it.under("content-length: 0"))]),
    ("a length that is none", |it| vec![Send(it.under("content-length: many"))]),
    ("a length below zero", |it| vec![Send(it.under("content-length: -1"))]),
    ("two lengths", |it| vec![Send(it.under("content-length: 9\r\ncontent-length: 10"))]),
    ("chunks that are none", |it| vec![Send(it.under("transfer-encoding: chunked"))]),
    ("chunks without an end", |it| vec![Send(it.chunked())]),
    ("chunks without an end, waited for", |it| vec![Send(it.chunked()), Silence]),
    ("no answer", |_| vec![Silence]),
    ("half a head", |it| vec![Trickle(it.cut(20)), Silence]),
    ("half a body", |it| vec![Trickle(it.cut(it.head.len() + 9)), Silence]),
    ("another protocol", |_| vec![Send(b"SSH-2.0-server\r\n".to_vec()), Silence]),
    ("a status that is none", |_| vec![Send(b"HTTP/1.1 9999 ?\r\n\r\n".to_vec()), Silence]),
    ("a header of a mebibyte", |it| {
        vec![Send(it.under(&format!("content-length: 9\r\nx-pad: {}", "x".repeat(1 << 20)))), Silence]
    }),
    ("a mebibyte of headers", |it| {
        vec![Send(it.under(&format!("content-length: 9{}", "\r\nx-pad: x".repeat(100_000)))), Silence]
    }),
    ("a head without an end", |_| vec![Send(b"HTTP/1.1 200 OK\r\n".to_vec()), Endless(b"x-pad: x\r\n")]),
    ("nothing but interim answers", |_| vec![Send(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1000)), Silence]),
    ("a body without an end", |_| {
        vec![Send(b"HTTP/1.1 200 OK\r\n\r\n{\"access_token\":\"a".to_vec()), Endless(&[b'a'; 16 * 1024])]
    }),
];

/// All at once, each in a scene of its own: some are waited for in vain.
#[tokio::test]
async fn no_nonsense_of_a_token_endpoint_ends_a_session() {
    within(async {
        join_all(NONSENSE.map(|(name, fault)| async move {
            let scene = Scene::start().await;
            scene.place.fetch_in_vain();
            let scene = scene.survives(name, fault).await;
            let counts = scene.place.authority.counts();
            assert!(counts.presented.values().all(|times| *times <= 2), "{name}");
        }))
        .await;
    })
    .await;
}

#[tokio::test]
async fn an_answer_without_an_end_is_read_no_further_than_its_limit() {
    within(async {
        let scene = Scene::start().await;
        let body: Nonsense = |_| vec![Send(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()), Endless(&[b' '; 16 * 1024])];
        let scene = scene.survives("a body without an end", body).await;
        // What the sockets have swallowed meanwhile, and 64 KiB.
        assert!(scene.issuer.traffic().sent < 32 << 20, "{:?}", scene.issuer.traffic());
        // The idle connection of the healthy answers is the only one.
        drop(scene.place);
        scene.issuer.deserted().await;
    })
    .await;
}

/// Whole, but in an unusual way: the refresh token is presented once.
#[tokio::test]
async fn an_answer_that_comes_whole_counts_however_it_comes() {
    let ways: [(&str, Nonsense); 6] = [
        ("byte by byte", |it| vec![Trickle(it.whole())]),
        ("until the connection closes", |it| vec![Send(it.under("connection: close"))]),
        ("in chunks", |it| vec![Send(it.chunked()), Send(b"0\r\n\r\n".to_vec())]),
        ("in chunks, byte by byte", |it| vec![Trickle(it.chunked()), Trickle(b"0\r\n\r\n".to_vec())]),
        ("after interim answers", |it| {
            vec![Send(b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(50)), Send(it.whole())]
        }),
        ("with more behind it", |it| vec![Send(it.whole()), Send(b"HTTP/1.1 500 What\r\n\r\n".to_vec())]),
    ];
    within(async {
        join_all(ways.map(|(name, way)| async move {
            let Scene { place, issuer, .. } = Scene::start().await;
            for _ in 0..3 {
                issuer.fault(way);
                place.authority.revoke_access();
                assert_eq!(place.success(2).await, 1, "{name}");
                issuer.deserted().await;
            }
            assert_eq!(place.authority.counts().presented_again(), 0, "{name}");
        }))
        .await;
    })
    .await;
}

#[tokio::test]
async fn everybody_who_waits_for_a_silent_token_endpoint_gets_an_answer() {
    within(async {
        let scene = Scene::start().await;
        scene.place.authority.revoke_access();
        scene.place.fetch_in_vain();
        scene.issuer.fault(|_| vec![Silence]);
        let failures = join_all((0..50).map(|_| scene.place.failure())).await;
        assert_eq!(scene.place.refreshes(), 1);
        assert!(failures.iter().all(|failure| failure.kind() == ErrorKind::Transient));
        scene.place.recovers(&failures[0]).await;
    })
    .await;
}

#[tokio::test]
async fn a_token_endpoint_that_never_accepts_is_given_up() {
    within(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let authority = Place::authority();
        let api = Peer::start(ModelApi::new(authority.clone())).await;
        let issuer = listener.local_addr().unwrap();
        let place = Place::new(Http::One, authority.clone(), issuer, api.address, SOON).await;
        authority.revoke_access();
        place.fetch_in_vain();
        assert_eq!(place.failure().await.kind(), ErrorKind::Transient);
        assert!(!place.session.token().await.unwrap().access().expose().is_empty(), "the session is kept");
    })
    .await;
}

#[tokio::test]
async fn a_token_endpoint_that_refuses_connections_is_asked_again() {
    within(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let authority = Place::authority();
        let api = Peer::start(ModelApi::new(authority.clone())).await;
        let issuer = listener.local_addr().unwrap();
        drop(listener);
        let place = Place::new(Http::One, authority.clone(), issuer, api.address, SOON).await;
        authority.revoke_access();
        let failure = place.failure().await;
        assert_eq!(place.refreshes(), 0);
        Peer::on(TcpListener::bind(issuer).await.unwrap(), authority);
        place.recovers(&failure).await;
        assert_eq!(place.authority.counts().presented_again(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_late_answer_is_used_by_those_who_come_after_it() {
    within(async {
        let authority = Place::authority();
        let issuer = Peer::start(authority.clone()).await;
        let api = Peer::start(ModelApi::new(authority.clone())).await;
        let place = Place::new(Http::One, authority.clone(), issuer.address, api.address, IN_VAIN).await;
        authority.revoke_access();
        let gate = authority.hold(Endpoint::Refresh);
        let failures = join_all((0..20).map(|_| place.failure())).await;
        assert!(failures.iter().all(|failure| failure.kind() == ErrorKind::Timeout));
        gate.open();
        place.session.settle().await.unwrap();
        assert_eq!(place.success(1).await, 0);
        assert_eq!(authority.counts().presented_again(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_redirect_of_the_token_endpoint_is_not_followed_and_ends_no_session() {
    within(async {
        for status in ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"] {
            let stranger = Peer::start(Place::authority()).await;
            let answer = format!(
                "HTTP/1.1 {status}\r\nlocation: http://{}/oauth/token\r\ncontent-length: 0\r\n\r\n",
                stranger.address
            );
            let fault = move |_: Answer| vec![Send(answer.into_bytes())];
            Scene::start().await.survives(status, fault).await;
            assert_eq!(stranger.traffic().accepted, 0, "{status}");
        }
    })
    .await;
}
