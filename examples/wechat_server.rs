//! A backend with two WeChat applications: the token in the query, refusals at status 200, one token call for everybody.
//!
//! ```text
//! cargo run --example wechat_server
//! ```

mod serve;
mod show;

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::future::try_join_all;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serve::serve;
use show::show;
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneService};
use tower_token_refresh::{BoxError, Origin, ReplayBody, peek::PeekBody, preset, source::Content};

type App = BoxCloneService<Request<Full<Bytes>>, Response<PeekBody<Incoming>>, BoxError>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let wechat = WeChat::default();
    let base = wechat.clone().serve().await?;
    let (shop, news) = (app(&base, "shop")?, app(&base, "news")?);

    println!("Two applications");
    let answer = send(&shop, &base).await?;
    show(&format!("the shop sends a message → {answer}"), answer.contains("\"errcode\":0"))?;
    send(&news, &base).await?;
    show("each has a token of its own", wechat.tokens("shop") == 1 && wechat.tokens("news") == 1)?;

    println!("\nThe shop's token dies under a hundred messages");
    wechat.expire("shop");
    let answers = try_join_all((0..100).map(|_| send(&shop, &base))).await?;
    show("a hundred are accepted", answers.iter().all(|answer| answer.contains("\"errcode\":0")))?;
    show("one more token for the shop", wechat.tokens("shop") == 2)?;
    show("none for the other", wechat.tokens("news") == 1)
}

/// One application's client.
fn app(base: &str, id: &str) -> Result<App, BoxError> {
    let tokens: Client<HttpConnector, Content> = Client::builder(TokioExecutor::new()).build_http();
    let api: Client<_, ReplayBody<Full<Bytes>>> = Client::builder(TokioExecutor::new()).build_http();
    let wechat = preset::wechat();
    // Without `url` it is the platform's own.
    let source =
        preset::wechat_source(tokens, id, "its-secret").url(format!("{base}/cgi-bin/token").parse()?);
    let session = wechat.session(source).build();
    let layers = wechat.layer(session, base.parse::<Origin>()?);
    Ok(ServiceBuilder::new().boxed_clone().layer(layers).service(api))
}

async fn send(app: &App, base: &str) -> Result<String, BoxError> {
    let request = Request::post(format!("{base}/cgi-bin/message/send")).body(Full::from("{}"))?;
    let body = app.clone().oneshot(request).await?.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}

/// As much of the platform as this needs.
#[derive(Clone, Default)]
struct WeChat(Arc<Mutex<HashMap<String, Issued>>>);

/// What an application has been handed out. A new token ends the one before.
#[derive(Default)]
struct Issued {
    tokens: usize,
    is_expired: bool,
}

impl WeChat {
    fn tokens(&self, app: &str) -> usize {
        self.with(app, |issued| issued.tokens)
    }

    fn expire(&self, app: &str) {
        self.with(app, |issued| issued.is_expired = true);
    }

    fn with<T>(&self, app: &str, use_it: impl FnOnce(&mut Issued) -> T) -> T {
        use_it(self.0.lock().expect("nobody panics with it").entry(app.to_owned()).or_default())
    }

    fn answer(&self, request: &Request<Incoming>) -> String {
        let parameters: HashMap<_, _> = request
            .uri()
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        if let Some(app) = parameters.get("appid") {
            return self.with(app, |issued| {
                *issued = Issued { tokens: issued.tokens + 1, is_expired: false };
                format!(r#"{{"access_token":"{app}.{}","expires_in":7200}}"#, issued.tokens)
            });
        }
        let (app, number) =
            parameters.get("access_token").and_then(|token| token.split_once('.')).unwrap_or_default();
        let is_good = self.with(app, |issued| !issued.is_expired && issued.tokens.to_string() == number);
        let code = if is_good { 0 } else { 42001 };
        format!(r#"{{"errcode":{code}}}"#)
    }

    async fn serve(self) -> Result<String, BoxError> {
        let answers = service_fn(move |request| {
            let answer = self.answer(&request);
            let response = Response::builder().header("content-type", "application/json; encoding=utf-8");
            async { Ok::<_, Infallible>(response.body(Full::<Bytes>::from(answer)).expect("a response")) }
        });
        serve(answers).await
    }
}
