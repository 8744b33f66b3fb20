//! What platforms expect, as data.
//!
//! A [`Preset`] says where a platform wants the token and which of its answers refuse it; the source beside it gets
//! tokens there.
//!
//! | platform | preset | source |
//! |---|---|---|
//! | a mini program's own server | [`mini_program`] | [`LoginCode::mini_program`](crate::source::LoginCode::mini_program) |
//! | WeChat server API | [`wechat`] | [`wechat_source`], or [`StableToken`] |
//! | WeCom | [`wecom`] | [`wecom_source`] |
//! | DingTalk, old API | [`dingtalk_old`] | [`dingtalk_old_source`] |
//! | DingTalk, new API | [`dingtalk`] | [`dingtalk_source`] |
//! | Feishu, tenant | [`feishu`] | [`feishu_source`] |
//! | Slack, rotating tokens | [`slack`] | [`RefreshTokenGrant`](crate::source::oauth2::RefreshTokenGrant) at [`slack_endpoint`] |
//! | an OAuth 2 resource server | [`oauth2`] | any of [`oauth2`](crate::source::oauth2) |
//! | gRPC | [`grpc`] | any |
//!
//! ```
//! use hyper_util::{client::legacy::{Client, connect::HttpConnector}, rt::TokioExecutor};
//! use tower::ServiceBuilder;
//! use tower_token_refresh::{Origin, preset, source::Content};
//! # use http_body_util::Full;
//! # use tower_token_refresh::ReplayBody;
//!
//! let http: Client<HttpConnector, Content> = Client::builder(TokioExecutor::new()).build_http();
//! # type Sent = ReplayBody<Full<bytes::Bytes>>;
//! # let api: Client<HttpConnector, Sent> = Client::builder(TokioExecutor::new()).build_http();
//! let wechat = preset::wechat();
//! let session = wechat.session(preset::wechat_source(http, "my-app", "its-secret")).build();
//! let client = ServiceBuilder::new()
//!     .layer(wechat.layer(session, "https://api.weixin.qq.com".parse::<Origin>()?))
//!     .service(api);
//! # let _ = client;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Each application of a process has a session of its own.
//!
//! While a platform refuses an application (a wrong secret, an address that is not on its list), each process asks once a
//! minute, as long as there are requests: some 1,440 calls a day. Where that is too much of a quota, a longer
//! [`cooling`](SessionBuilder::cooling) makes them rarer.

mod apps;
mod json_by_default;
mod platforms;
mod stable_token;

use std::fmt;

pub use self::{
    apps::{
        dingtalk_old_source, dingtalk_source, feishu_source, slack_endpoint, wechat_source, wecom_source,
    },
    json_by_default::{JsonByDefault, JsonByDefaultLayer},
    platforms::{dingtalk, dingtalk_old, feishu, grpc, mini_program, oauth2, slack, wechat, wecom},
    stable_token::StableToken,
};
use crate::{
    classify::Classify, layer::TokenRefreshLayer, placement::Placement, scope::Scope, session::Session,
    session::SessionBuilder, source::TokenSource,
};

const VALID: &str = "the data of the presets is valid";

/// Where a platform wants the token, and which of its answers refuse it. `L` is the layer that finds the evidence in
/// the body of an answer.
#[must_use]
pub struct Preset<L> {
    placement: Placement,
    classifier: Box<dyn Classify>,
    below: L,
}

impl<L> Preset<L> {
    fn new(placement: Placement, classifier: impl Classify, below: L) -> Self {
        Preset { placement, classifier: Box::new(classifier), below }
    }

    /// Starts to build a session whose token is put where the platform wants it.
    pub fn session(&self, source: impl TokenSource) -> SessionBuilder {
        Session::builder(source).placement(self.placement.clone())
    }

    /// The layer for that session, and the one that belongs below it. A pair of layers is a layer; take it apart to change
    /// an option: `let (layer, below) = …`.
    pub fn layer(self, session: Session, scope: impl Into<Scope>) -> (TokenRefreshLayer, L) {
        (TokenRefreshLayer::new(session, scope).classifier(self.classifier), self.below)
    }
}

impl<L> fmt::Debug for Preset<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preset").field("placement", &self.placement).finish_non_exhaustive()
    }
}
