//! Streams and connections that are given up by HTTP/2's own means.

use std::sync::Arc;

use futures_util::future::join_all;
use h2::Reason;
use http::StatusCode;
use http_body_util::BodyExt;
use hyper_util::client::legacy;
use tokio::sync::Notify;
use tower_token_refresh::{
    Error, Outcome,
    test_util::{Endpoint, ModelApi},
};

use super::{
    cutter::Cutter,
    http2::{Fault, Peer},
    place::{Place, SOON},
};
use crate::kit::{Http, within};

const REASONS: [Reason; 4] =
    [Reason::NO_ERROR, Reason::INTERNAL_ERROR, Reason::ENHANCE_YOUR_CALM, Reason::HTTP_1_1_REQUIRED];

/// Each way to fail with each reason; those with a body go on at once.
fn faults() -> Vec<Fault> {
    let at_once = || {
        let when = Arc::new(Notify::new());
        when.notify_one();
        when
    };
    let of = |reason| {
        [
            Fault::Reset(reason),
            Fault::GoAway(reason),
            Fault::ResetInBody(reason, at_once()),
            Fault::GoAwayInBody(reason, at_once()),
        ]
    };
    REASONS.into_iter().flat_map(of).collect()
}

struct Scene {
    place: Place,
    issuer: Peer,
    api: Peer,
}

impl Scene {
    /// With a token that has been revoked.
    async fn start() -> Self {
        let authority = Place::authority();
        let issuer = Peer::start(authority.clone()).await;
        let api = Peer::start(ModelApi::new(authority.clone())).await;
        let place = Place::new(Http::Two, authority, issuer.address, api.address, SOON).await;
        place.authority.revoke_access();
        Scene { place, issuer, api }
    }
}

#[tokio::test]
async fn a_token_endpoint_that_resets_streams_or_goes_away_ends_no_session() {
    within(async {
        for fault in faults() {
            let Scene { place, issuer, .. } = Scene::start().await;
            issuer.fault(fault);
            let failure = place.failure().await;
            assert_eq!(place.refreshes(), 1);
            place.recovers(&failure).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_token_endpoint_over_http2_that_falls_silent_ends_no_session() {
    within(async {
        let Scene { place, issuer, .. } = Scene::start().await;
        place.fetch_in_vain();
        issuer.fault(Fault::Silence);
        let failures = join_all((0..20).map(|_| place.failure())).await;
        place.recovers(&failures[0]).await;
    })
    .await;
}

#[tokio::test]
async fn a_stream_or_connection_that_is_given_up_before_an_answer_starts_no_refresh() {
    within(async {
        for reason in REASONS {
            for fault in [Fault::Reset(reason), Fault::GoAway(reason)] {
                let Scene { place, api, .. } = Scene::start().await;
                api.fault(fault.clone());
                let error = place.get().await.unwrap_err();
                assert!(error.is::<legacy::Error>() && Error::find(&*error).is_none());
                assert_eq!(place.refreshes(), 0);

                // The same at the resend.
                api.no_fault();
                api.fault(fault);
                assert!(place.get().await.unwrap_err().is::<legacy::Error>());
                assert_eq!(place.refreshes(), 1);
                assert_eq!(place.success(1).await, 0);
            }
        }
    })
    .await;
}

/// While it waits for the refresh, the refused response is worth no more than its head.
#[tokio::test]
async fn a_refusal_whose_stream_or_connection_is_given_up_meanwhile_is_recovered_from() {
    within(async {
        for reason in REASONS {
            for with_the_connection in [false, true] {
                let Scene { place, api, .. } = Scene::start().await;
                let when = Arc::new(Notify::new());
                let fault = if with_the_connection { Fault::GoAwayInBody } else { Fault::ResetInBody };
                api.fault(fault(reason, when.clone()));
                let fetch = place.authority.hold(Endpoint::Refresh);
                let steps = async {
                    fetch.waiting(1).await;
                    when.notify_one();
                    fetch.open();
                };
                let (response, ()) = tokio::join!(place.get(), steps);
                let response = response.unwrap();
                assert_eq!(response.extensions().get::<Outcome>().unwrap().attempts(), 2);
                assert!(response.into_body().collect().await.is_ok());
                assert_eq!(place.success(1).await, 0);
                assert_eq!(place.refreshes(), 1);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_refused_response_over_http2_that_falls_silent_is_recovered_from() {
    within(async {
        let Scene { place, api, .. } = Scene::start().await;
        api.fault(Fault::Silence);
        assert_eq!(place.success(2).await, 1);
        assert_eq!(place.success(1).await, 0);
    })
    .await;
}

/// Settings, acknowledgements and answers alike.
#[tokio::test]
async fn a_token_endpoint_over_http2_that_breaks_off_at_any_byte_ends_no_session() {
    within(async {
        for at in 0.. {
            let authority = Place::authority();
            let issuer = Peer::start(authority.clone()).await;
            let cutter = Cutter::start(issuer.address, at).await;
            let api = Peer::start(ModelApi::new(authority.clone())).await;
            let place = Place::new(Http::Two, authority, cutter.address, api.address, SOON).await;
            place.authority.revoke_access();
            let result = place.get().await;
            match Error::of(&result) {
                Some(failure) => place.recovers(failure).await,
                None => assert_eq!((result.unwrap().status(), place.refreshes()), (StatusCode::OK, 1)),
            }
            if !cutter.has_cut() {
                return assert!(at > 100, "{at}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_resource_server_over_http2_that_breaks_off_at_any_byte_costs_one_refresh_at_most() {
    within(async {
        for at in 0.. {
            let authority = Place::authority();
            let issuer = Peer::start(authority.clone()).await;
            let api = Peer::start(ModelApi::new(authority.clone())).await;
            let cutter = Cutter::start(api.address, at).await;
            let place = Place::new(Http::Two, authority, issuer.address, cutter.address, SOON).await;
            place.authority.revoke_access();
            match place.get().await {
                // What was cut may be the body.
                Ok(response) => assert_eq!(response.status(), StatusCode::OK, "{at}"),
                Err(error) => assert!(error.is::<legacy::Error>(), "{at}"),
            }
            // What was cut off last may be on its way still, on a connection that looks idle.
            let place = place.with_new_connections(Http::Two);
            let response = place.get().await.unwrap();
            assert_eq!((response.status(), place.refreshes()), (StatusCode::OK, 1), "{at}");
            if !cutter.has_cut() {
                return assert!(at > 100, "{at}");
            }
        }
    })
    .await;
}
