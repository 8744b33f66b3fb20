//! What platforms expect, against servers that answer as they do.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, header};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, util::BoxCloneService};
use tower_token_refresh::{
    Classify, Codes, ErrorCode, ErrorKind, FetchContext, FetchError, GrpcStatusLayer, Outcome, ReplayBody,
    Session, Statuses, Token, TokenRefreshLayer, TokenSource,
    peek::grpc::Unary,
    preset::{self, Preset, StableToken},
    session::SessionBuilder,
    source::{AppToken, Cause, Content, LoginCode, oauth2::RefreshTokenGrant},
    source_fn,
};

use crate::{
    idp::{Idp, Say, json},
    script::{filled, until, within},
    world::origin,
};

/// A platform: its token endpoint, and its API.
#[derive(Clone, Default)]
struct Platform(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    hands_out: VecDeque<String>,
    token_calls: Vec<String>,
    says: VecDeque<(u16, (HeaderName, &'static str), &'static str)>,
    /// URI and headers of the requests at the API.
    seen: Vec<(String, HeaderMap)>,
}

const JSON: (HeaderName, &str) = (header::CONTENT_TYPE, "application/json");
const FINE: &str = r#"{"ok":true,"errcode":0,"code":0}"#;

impl Platform {
    fn handing_out<T: Into<String>>(answers: impl IntoIterator<Item = T>) -> Self {
        let platform = Platform::default();
        platform.state(|state| state.hands_out = answers.into_iter().map(Into::into).collect());
        platform
    }

    fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.0.lock().unwrap())
    }

    /// What the API answers next; afterwards everything is fine.
    fn says(&self, status: u16, body: &'static str) {
        self.says_with(status, JSON, body);
    }

    fn says_with(&self, status: u16, header: (HeaderName, &'static str), body: &'static str) {
        self.state(|state| state.says.push_back((status, header, body)));
    }

    fn token_calls(&self) -> Vec<String> {
        self.state(|state| state.token_calls.clone())
    }

    fn seen(&self) -> Vec<(String, HeaderMap)> {
        self.state(|state| state.seen.clone())
    }

    fn api(&self) -> Api {
        Api(self.clone())
    }
}

impl Service<Request<Content>> for Platform {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        Ok(()).into()
    }

    fn call(&mut self, request: Request<Content>) -> Self::Future {
        let (head, body) = request.into_parts();
        let body = String::from_utf8(Bytes::from(body).to_vec()).unwrap();
        let call = format!("{} {} {body}", head.method, head.uri);
        let answer = self.state(|state| {
            state.token_calls.push(call.trim_end().to_owned());
            state.hands_out.pop_front().expect("no more token calls than answers")
        });
        ready(Ok(Response::new(Full::from(answer))))
    }
}

#[derive(Clone)]
struct Api(Platform);

type Sent = ReplayBody<Full<Bytes>>;

impl Service<Request<Sent>> for Api {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        Ok(()).into()
    }

    fn call(&mut self, request: Request<Sent>) -> Self::Future {
        let (status, (name, value), body) = self.0.state(|state| {
            state.seen.push((request.uri().to_string(), request.headers().clone()));
            state.says.pop_front().unwrap_or((200, JSON, FINE))
        });
        let response = Response::builder().status(status).header(name, value);
        ready(Ok(response.body(Full::from(body)).unwrap()))
    }
}

type Client = BoxCloneService<Request<Full<Bytes>>, (u16, String, Option<u8>), String>;

/// A client whose answers are status, body and attempts.
fn client<L, B>(preset: Preset<L>, session: Session, api: Api) -> Client
where
    L: Layer<Api>,
    L::Service: Service<Request<Sent>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    <L::Service as Service<Request<Sent>>>::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Debug,
    (TokenRefreshLayer, L): Layer<Api, Service = tower_token_refresh::TokenRefresh<L::Service>>,
{
    let service = preset.layer(session, origin()).layer(api);
    BoxCloneService::new(tower::service_fn(move |request: Request<Full<Bytes>>| {
        let service = service.clone();
        async move {
            let response = service.oneshot(request).await.map_err(|error| error.to_string())?;
            let attempts = response.extensions().get::<Outcome>().map(Outcome::attempts);
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.expect("a whole body").to_bytes();
            Ok((status, String::from_utf8(body.to_vec()).unwrap(), attempts))
        }
    }))
}

fn request() -> Request<Full<Bytes>> {
    Request::get("https://api.test/me?a=1").body(Full::default()).unwrap()
}

async fn get(client: &Client) -> (u16, String, Option<u8>) {
    within(client.clone().oneshot(request())).await.expect("an answer")
}

fn at<T>(path: &str, with: impl FnOnce(http::Uri) -> T) -> T {
    with(format!("https://api.test{path}").parse().unwrap())
}

/// How one platform behaves.
struct Case<S> {
    preset: fn() -> Preset<tower_token_refresh::JsonCodeLayer>,
    source: fn(Platform) -> S,
    token_call: &'static str,
    /// The answer of the token endpoint, with `TOKEN` in it.
    token: &'static str,
    refusal: (u16, &'static str),
    other: (u16, &'static str),
    /// How the API sees the token `t1`.
    sees: fn(&(String, HeaderMap)) -> String,
}

fn query((uri, headers): &(String, HeaderMap)) -> String {
    assert!(!headers.contains_key(header::AUTHORIZATION));
    uri.split_once('?').unwrap().1.to_owned()
}

fn bearer((uri, headers): &(String, HeaderMap)) -> String {
    assert!(!uri.contains("token"));
    assert_eq!(headers.get_all(header::AUTHORIZATION).iter().count(), 1);
    headers[header::AUTHORIZATION].to_str().unwrap().to_owned()
}

fn own_header((_, headers): &(String, HeaderMap)) -> String {
    assert!(!headers.contains_key(header::AUTHORIZATION));
    headers["x-acs-dingtalk-access-token"].to_str().unwrap().to_owned()
}

impl<S: TokenSource> Case<S> {
    async fn holds(self) {
        // The second token is the same text, as some platforms have it, and then another one.
        for second in ["t1", "t2"] {
            let answers = ["t1", second].map(|token| self.token.replace("TOKEN", token));
            let platform = Platform::handing_out(answers);
            let session = (self.preset)().session((self.source)(platform.clone())).build();
            let client = client((self.preset)(), session, platform.api());
            assert_eq!(get(&client).await, (200, FINE.to_owned(), None));
            assert_eq!(platform.token_calls(), [self.token_call]);
            let first = (self.sees)(&platform.seen()[0]);
            assert!(first.contains("t1"), "{first}");

            platform.says(self.other.0, self.other.1);
            assert_eq!(get(&client).await, (self.other.0, self.other.1.to_owned(), None), "not ours");
            assert_eq!(platform.token_calls().len(), 1);

            platform.says(self.refusal.0, self.refusal.1);
            assert_eq!(get(&client).await, (200, FINE.to_owned(), Some(2)), "{second}");
            assert_eq!(platform.token_calls().len(), 2);
            let last = (self.sees)(platform.seen().last().unwrap());
            assert_eq!(last, first.replace("t1", second));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn wechat_takes_its_token_in_the_query_and_refuses_it_at_status_200() {
    let case = |refusal| Case {
        preset: preset::wechat,
        source: |platform| {
            at("/cgi-bin/token", |url| preset::wechat_source(platform, "my-app", "my secret").url(url))
        },
        token_call: "GET https://api.test/cgi-bin/token?appid=my-app&secret=my+secret&grant_type=client_credential",
        token: r#"{"access_token":"TOKEN","expires_in":7200}"#,
        refusal: (200, refusal),
        other: (200, r#"{"errcode":45009,"errmsg":"reach max api daily quota limit"}"#),
        sees: query,
    };
    for refusal in [r#"{"errcode":40001}"#, r#"{"errcode":40014}"#, r#"{"errcode":42001,"errmsg":"expired"}"#]
    {
        case(refusal).holds().await;
    }
}

#[tokio::test(start_paused = true)]
async fn wechat_may_call_a_refusal_plain_text() {
    let platform = Platform::default();
    let client = client(preset::wechat(), numbered(&preset::wechat()).build(), platform.api());
    platform.says_with(200, (header::CONTENT_TYPE, "text/plain"), r#"{"errcode":42001}"#);
    assert_eq!(get(&client).await, (200, FINE.to_owned(), Some(2)));
}

#[tokio::test(start_paused = true)]
async fn wecom_refuses_a_token_as_expired_or_as_invalid() {
    let case = |refusal| Case {
        preset: preset::wecom,
        source: |platform| {
            at("/cgi-bin/gettoken", |url| preset::wecom_source(platform, "corp", "s").url(url))
        },
        token_call: "GET https://api.test/cgi-bin/gettoken?corpid=corp&corpsecret=s",
        token: r#"{"errcode":0,"errmsg":"ok","access_token":"TOKEN","expires_in":7200}"#,
        refusal: (200, refusal),
        other: (200, r#"{"errcode":60011}"#),
        sees: query,
    };
    for refusal in [r#"{"errcode":40014}"#, r#"{"errcode":42001}"#] {
        case(refusal).holds().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_old_api_of_dingtalk_takes_its_token_in_the_query() {
    dingtalk_old(r#"{"errcode":40014,"errmsg":"invalid access_token"}"#, r#"{"errcode":33012}"#).await;
}

async fn dingtalk_old(refusal: &'static str, other: &'static str) {
    Case {
        preset: preset::dingtalk_old,
        source: |platform| at("/gettoken", |url| preset::dingtalk_old_source(platform, "key", "s").url(url)),
        token_call: "GET https://api.test/gettoken?appkey=key&appsecret=s",
        token: r#"{"errcode":0,"access_token":"TOKEN","expires_in":7200}"#,
        refusal: (200, refusal),
        other: (200, other),
        sees: query,
    }
    .holds()
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_old_api_of_dingtalk_refuses_also_by_the_text_of_a_code_below_another() {
    let refusal = r#"{"errcode":88,"sub_code":"40014","sub_msg":"不合法的access_token","errmsg":"ding talk error[subcode=40014]"}"#;
    let no_permission = r#"{"errcode":88,"sub_code":"60011","sub_msg":"没有调用该接口的权限"}"#;
    dingtalk_old(refusal, no_permission).await;
    dingtalk_old(r#"{"errcode":40014,"sub_code":""}"#, r#"{"errcode":88}"#).await;
}

#[tokio::test(start_paused = true)]
async fn the_new_api_of_dingtalk_takes_its_token_in_a_header_of_its_own() {
    let case = |other| Case {
        preset: preset::dingtalk,
        source: |platform| {
            at("/v1.0/oauth2/accessToken", |url| preset::dingtalk_source(platform, "key", "s").url(url))
        },
        token_call: r#"POST https://api.test/v1.0/oauth2/accessToken {"appKey":"key","appSecret":"s"}"#,
        token: r#"{"accessToken":"TOKEN","expireIn":7200}"#,
        refusal: (400, r#"{"code":"InvalidAuthentication","message":"..."}"#),
        other,
        sees: own_header,
    };
    for other in [
        (400, r#"{"code":"InvalidParameter"}"#),
        (200, r#"{"code":"InvalidAuthentication"}"#),
        (403, r#"{"code":"InvalidAuthentication"}"#),
    ] {
        case(other).holds().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_code_of_dingtalks_new_api_is_one_of_an_error_only() {
    let platform = Platform::handing_out(vec![r#"{"accessToken":"t1","expireIn":7200}"#]);
    let session = preset::dingtalk().session(preset::dingtalk_source(platform.clone(), "key", "s")).build();
    let client = preset::dingtalk().layer(session, origin()).layer(platform.api());
    for (status, code) in [(200, None), (400, Some("SF1024")), (403, Some("SF1024")), (500, Some("SF1024"))] {
        platform.says(status, r#"{"code":"SF1024"}"#);
        let response = client.clone().oneshot(request()).await.unwrap();
        assert_eq!(response.extensions().get(), code.map(ErrorCode::from).as_ref(), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn feishu_refuses_a_bearer_token_by_a_code_at_status_400() {
    let case = |refusal| Case {
        preset: preset::feishu,
        source: |platform| at("/internal", |url| preset::feishu_source(platform, "app", "s").url(url)),
        token_call: r#"POST https://api.test/internal {"app_id":"app","app_secret":"s"}"#,
        token: r#"{"code":0,"msg":"ok","tenant_access_token":"TOKEN","expire":7200}"#,
        refusal: (400, refusal),
        other: (400, r#"{"code":99991672,"msg":"no permission"}"#),
        sees: bearer,
    };
    for refusal in [
        r#"{"code":99991661}"#,
        r#"{"code":99991663}"#,
        r#"{"code":99991664}"#,
        r#"{"code":99991671}"#,
        r#"{"code":99991677}"#,
    ] {
        case(refusal).holds().await;
    }
}

#[tokio::test(start_paused = true)]
async fn slack_rotates_and_says_that_a_refresh_token_is_dead_at_status_200() {
    let platform = Platform::handing_out([
        r#"{"ok":true,"access_token":"t2","refresh_token":"r2","expires_in":43200}"#,
        r#"{"ok":false,"error":"invalid_refresh_token"}"#,
    ]);
    let endpoint = preset::slack_endpoint(platform.clone(), "my-app", "s");
    let session = preset::slack().session(RefreshTokenGrant::new(endpoint)).build();
    session.login(Token::new("t1").refresh_token("r1")).await.unwrap();
    let client = client(preset::slack(), session.clone(), platform.api());
    platform.says(200, r#"{"ok":false,"error":"channel_not_found"}"#);
    assert_eq!(get(&client).await.2, None);
    platform.says(200, r#"{"ok":false,"error":"token_expired"}"#);
    assert_eq!(get(&client).await, (200, FINE.to_owned(), Some(2)));
    let seen: Vec<_> = platform.seen().iter().map(bearer).collect();
    assert_eq!(seen, ["Bearer t1", "Bearer t1", "Bearer t2"]);
    assert!(session.refresh().await.unwrap_err().is_login_required());
    let call = |refresh: &str| {
        format!(
            "POST https://slack.com/api/oauth.v2.access \
             grant_type=refresh_token&refresh_token={refresh}&client_id=my-app&client_secret=s"
        )
    };
    assert_eq!(platform.token_calls(), [call("r1"), call("r2")]);
}

#[tokio::test(start_paused = true)]
async fn a_mini_programs_requests_are_json_unless_they_say_what_they_are() {
    let platform = Platform::handing_out([r#"{"token":"T"}"#, r#"{"token":"NEW2"}"#]);
    let source = at("/token", |url| {
        LoginCode::mini_program(platform.clone(), url, || async { Ok("code".into()) }).unwrap()
    });
    let session = preset::mini_program().session(source).build();
    let client = client(preset::mini_program(), session, platform.api());
    platform.says(403, r#"{"error_code":10006}"#);
    assert_eq!(get(&client).await, (200, FINE.to_owned(), Some(2)));
    let upload = Request::post("https://api.test/upload")
        .header(header::CONTENT_TYPE, "multipart/form-data; boundary=x");
    within(client.clone().oneshot(upload.body(Full::from("--x--")).unwrap())).await.unwrap();
    let seen = platform.seen();
    let of = |name| seen.iter().map(|(_, headers)| headers[&name].to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(of(header::AUTHORIZATION), ["Basic VDo=", "Basic TkVXMjo=", "Basic TkVXMjo="]);
    let json = "application/json";
    assert_eq!(of(header::CONTENT_TYPE), [json, json, "multipart/form-data; boundary=x"]);
    assert!(seen.iter().all(|(_, headers)| headers.len() == 2), "nothing else is said");
    let call = r#"POST https://api.test/token {"account":"code","type":100}"#;
    assert_eq!(platform.token_calls(), [call, call]);
}

/// A page that its user may not see, opened every minute.
#[tokio::test(start_paused = true)]
async fn a_mini_programs_403_counts_as_a_refusal_unless_its_server_has_a_code_for_that() {
    const FORBIDDEN: &str = r#"{"error_code":10007}"#;
    for names_its_code in [false, true] {
        let platform = Platform::default();
        let session = numbered(&preset::mini_program()).build();
        let (layer, below) = preset::mini_program().layer(session.clone(), origin());
        let layer = match names_its_code {
            true => {
                let codes = Codes::reject([10_006]).unwrap().at([403]).unwrap();
                layer.classifier(Statuses::reject([401]).unwrap().or(codes))
            }
            false => layer,
        };
        let client = layer.layer(below.layer(platform.api()));
        for _ in 0..10 {
            for _ in 0..2 {
                platform.says(403, FORBIDDEN);
            }
            let response = within(client.clone().oneshot(request())).await.unwrap();
            assert_eq!(response.status(), 403);
            platform.state(|state| state.says.clear());
            tokio::time::advance(Duration::from_secs(61)).await;
        }
        let fetched = session.token().await.unwrap();
        let expected = if names_its_code { ("token-1", 10) } else { ("token-11", 20) };
        assert_eq!((fetched.access().expose(), platform.seen().len()), expected);
        // And one that speaks of the token leads to another one in either case.
        for (status, body) in [(403, r#"{"error_code":10006}"#), (401, "")] {
            platform.says(status, body);
            assert_eq!(within(client.clone().oneshot(request())).await.unwrap().status(), 200);
            tokio::time::advance(Duration::from_secs(61)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_has_no_room_to_say_that_it_is_json_goes_out_as_it_is() {
    let platform = Platform::default();
    let session = preset::mini_program().session(source_fn(|_| ready(Ok(Token::new("T"))))).build();
    let client = client(preset::mini_program(), session, platform.api());
    let mut request = filled(Request::get("https://api.test/me").body(Full::default()).unwrap());
    request.headers_mut().remove("x-0"); // the credential takes its place
    assert_eq!(within(client.oneshot(request)).await.unwrap().0, 200);
    assert!(!platform.seen()[0].1.contains_key(header::CONTENT_TYPE));
}

/// A session that fetches `token-1`, `token-2`, …
fn numbered<L>(preset: &Preset<L>) -> SessionBuilder {
    let fetched = AtomicUsize::new(0);
    preset.session(source_fn(move |_: FetchContext| {
        let number = fetched.fetch_add(1, Ordering::SeqCst) + 1;
        ready(Ok::<_, FetchError>(Token::new(format!("token-{number}"))))
    }))
}

#[tokio::test(start_paused = true)]
async fn a_resource_server_of_oauth2_refuses_by_its_challenge() {
    let client_of =
        |platform: &Platform| client(preset::oauth2(), numbered(&preset::oauth2()).build(), platform.api());
    let platform = Platform::default();
    platform.says(401, "");
    assert_eq!(get(&client_of(&platform)).await, (200, FINE.to_owned(), Some(2)));
    let seen: Vec<_> = platform.seen().iter().map(bearer).collect();
    assert_eq!(seen, ["Bearer token-1", "Bearer token-2"]);

    for (status, challenge, attempts) in [
        (401, r#"Bearer error="invalid_token""#, Some(2)),
        (401, r#"Bearer error="insufficient_scope""#, None),
        (403, r#"Bearer error="invalid_token""#, Some(2)),
        (403, r#"Bearer error="insufficient_scope""#, None),
    ] {
        let platform = Platform::default();
        platform.says_with(status, (header::WWW_AUTHENTICATE, challenge), "");
        assert_eq!(get(&client_of(&platform)).await.2, attempts, "{status} {challenge}");
    }
}

#[tokio::test(start_paused = true)]
async fn grpc_refuses_by_its_status_in_headers_or_trailers() {
    for in_trailers in [false, true] {
        let session = numbered(&preset::grpc()).build();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = calls.clone();
        let server = tower::service_fn(move |request: Request<Sent>| {
            let mut seen = seen.lock().unwrap();
            seen.push(request.headers()[header::AUTHORIZATION].to_str().unwrap().to_owned());
            let status = HeaderMap::from_iter([(
                HeaderName::from_static("grpc-status"),
                if seen.len() == 1 { "16" } else { "0" }.parse().unwrap(),
            )]);
            let mut response = Response::builder().header("content-type", "application/grpc");
            if !in_trailers {
                response.headers_mut().unwrap().extend(status.clone());
            }
            let trailers = in_trailers.then_some(Ok::<_, Infallible>(status));
            ready(Ok::<_, Infallible>(
                response.body(Full::<Bytes>::default().with_trailers(ready(trailers))).unwrap(),
            ))
        });
        let layers: (TokenRefreshLayer, GrpcStatusLayer) = preset::grpc().layer(session, origin());
        let mut request = request();
        request.extensions_mut().insert(Unary);
        let response = within(layers.layer(server).oneshot(request)).await.unwrap();
        assert_eq!(response.extensions().get::<Outcome>().map(Outcome::attempts), Some(2));
        assert_eq!(*calls.lock().unwrap(), ["Bearer token-1", "Bearer token-2"]);
    }
}

#[tokio::test(start_paused = true)]
async fn grpc_refuses_by_a_401_of_whoever_is_in_between() {
    for (status, attempts) in [(401, Some(2)), (403, None), (503, None)] {
        let session = numbered(&preset::grpc()).build();
        let platform = Platform::default();
        let client = client(preset::grpc(), session, platform.api());
        platform.says(status, "<html>");
        assert_eq!(get(&client).await.2, attempts, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_whose_uri_names_no_origin_gets_its_token_if_one_is_assumed() {
    for is_assumed in [false, true] {
        let session = numbered(&preset::grpc()).build();
        let (mut layer, below) = preset::grpc().layer(session, origin());
        if is_assumed {
            layer = layer.assume_origin(origin());
        }
        let platform = Platform::default();
        let client = layer.layer(below.layer(platform.api()));
        let call = Request::post("/orders.Orders/Get").body(Full::default()).unwrap();
        within(client.oneshot(call)).await.unwrap();
        let credential = platform.seen()[0].1.get(header::AUTHORIZATION).cloned();
        assert_eq!(credential, is_assumed.then_some("Bearer token-1".parse().unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn two_applications_in_one_process_know_nothing_of_each_other() {
    let token = |token: &str| format!(r#"{{"access_token":"{token}","expires_in":7200}}"#);
    let (one, two) =
        (Platform::handing_out([token("a1"), token("a2")]), Platform::handing_out([token("b1")]));
    let client = |platform: &Platform, app: &str| {
        let session = preset::wechat().session(preset::wechat_source(platform.clone(), app, "s")).build();
        client(preset::wechat(), session, platform.api())
    };
    let (first, second) = (client(&one, "one"), client(&two, "two"));
    one.says(200, r#"{"errcode":42001}"#);
    assert_eq!(get(&first).await.2, Some(2));
    assert_eq!(get(&second).await.2, None);
    let queries = |platform: &Platform| platform.seen().iter().map(query).collect::<Vec<_>>();
    assert_eq!(queries(&one), ["a=1&access_token=a1", "a=1&access_token=a2"]);
    assert_eq!(queries(&two), ["a=1&access_token=b1"]);
}

#[tokio::test(start_paused = true)]
async fn the_query_of_a_url_for_tokens_is_kept() {
    for (url, asked) in [
        ("/token?tenant=7&x", "/token?tenant=7&x&app=a%26b&kind=1"),
        ("/token?", "/token?app=a%26b&kind=1"),
        ("/token", "/token?app=a%26b&kind=1"),
        ("", "/?app=a%26b&kind=1"),
    ] {
        let platform = Platform::handing_out([r#"{"access_token":"t1"}"#]);
        let source = at(url, |url| AppToken::get(platform.clone(), url));
        let session = Session::builder(source.credential("app", "a&b").text("kind", "1")).build();
        session.token().await.unwrap();
        assert_eq!(platform.token_calls(), [format!("GET https://api.test{asked}")], "{url}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_application_sends_stands_there_once_as_it_was_given_last() {
    let platform = Platform::handing_out(vec![r#"{"access_token":"t1"}"#; 2]);
    let said = |source: AppToken| source.text("kind", "a").credential("secret", "new").text("kind", "b");
    let url = || "https://api.test/token".parse().unwrap();
    let wechat = preset::wechat_source(platform.clone(), "my-app", "s").url(url()).text("grant_type", "own");
    let post = AppToken::post(platform.clone(), url()).text("secret", "old").credential("kind", "old");
    for source in [wechat, post] {
        Session::builder(said(source)).build().token().await.unwrap();
    }
    assert_eq!(
        platform.token_calls(),
        [
            "GET https://api.test/token?appid=my-app&secret=new&grant_type=own&kind=b",
            r#"POST https://api.test/token {"secret":"new","kind":"b"}"#
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_wrong_secret_and_a_busy_platform_cost_a_bounded_number_of_token_calls() {
    for (answer, kind) in [
        (r#"{"errcode":40125,"errmsg":"invalid appsecret"}"#, ErrorKind::Configuration),
        (r#"{"errcode":40164,"errmsg":"invalid ip, not in whitelist"}"#, ErrorKind::Configuration),
        (r#"{"errcode":-1}"#, ErrorKind::Transient),
        (r#"{"errcode":45009}"#, ErrorKind::Transient),
        (r#"{"errcode":45033}"#, ErrorKind::Transient),
    ] {
        let platform = Platform::handing_out(vec![answer; 100]);
        let session = preset::wechat()
            .session(preset::wechat_source(platform.clone(), "canary-id", "canary-secret"))
            .build();
        for _ in 0..3600 {
            let error = session.token().await.unwrap_err();
            assert_eq!(error.kind(), kind, "{answer}");
            let shown =
                format!("{error:?} {error} {:?}", std::error::Error::source(&error).map(ToString::to_string));
            assert!(!shown.contains("canary"), "{shown}");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let calls = platform.token_calls().len();
        assert!((2..=90).contains(&calls), "{calls} token calls in an hour");
        let debug = format!("{:?}", preset::wechat_source(platform, "canary-id", "canary-secret"));
        assert!(!debug.contains("canary"), "{debug}");
    }
}

/// An endpoint that refuses every token as WeChat refuses a wrong secret, for a day.
#[tokio::test(start_paused = true)]
async fn a_stable_token_is_forced_only_when_it_was_refused_again_and_twenty_times_a_day_at_most() {
    let answer = r#"{"access_token":"t1","expires_in":7200}"#;
    let platform = Platform::handing_out(vec![answer; 5000]);
    let source =
        at("/cgi-bin/stable_token", |url| StableToken::new(platform.clone(), "my-app", "s").url(url));
    let session = preset::wechat().session(source).build();
    let client = client(preset::wechat(), session, platform.api());
    let start = tokio::time::Instant::now();
    let mut forced = Vec::new();
    while start.elapsed() < Duration::from_secs(24 * 3600) {
        let before = platform.token_calls().len();
        platform.says(200, r#"{"errcode":40001}"#);
        platform.says(200, r#"{"errcode":40001}"#);
        get(&client).await;
        platform.state(|state| state.says.clear());
        let calls = &platform.token_calls()[before..];
        forced.extend(calls.iter().filter(|call| call.contains("true")).map(|_| start.elapsed()));
        tokio::time::advance(Duration::from_secs(10)).await;
    }
    let call = |force: bool| {
        format!(
            r#"POST https://api.test/cgi-bin/stable_token {{"appid":"my-app","secret":"s","grant_type":"client_credential","force_refresh":{force}}}"#
        )
    };
    let calls = platform.token_calls();
    assert_eq!(calls[..3], [call(false), call(false), call(true)], "first, refused, and refused again");
    assert_eq!(forced.len(), 20);
    assert!(forced.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_secs(30)));
    println!(
        "WeChat refuses every token for a day: {} token calls, {} of them forced",
        calls.len(),
        forced.len()
    );
    assert!(calls.len() <= 24 * 60 + 60, "{}", calls.len());

    tokio::time::advance(Duration::from_secs(60)).await;
    platform.says(200, r#"{"errcode":40001}"#);
    get(&client).await;
    assert_eq!(platform.token_calls().last(), Some(&call(true)), "a day later there are more");
}

#[tokio::test(start_paused = true)]
async fn a_stable_token_is_not_forced_by_refusals_of_uploads_unless_the_next_one_follows_soon() {
    let platform = Platform::handing_out(vec![r#"{"access_token":"t1","expires_in":7200}"#; 100]);
    let source =
        at("/cgi-bin/stable_token", |url| StableToken::new(platform.clone(), "my-app", "s").url(url));
    let session = preset::wechat().session(source).build();
    session.token().await.unwrap();
    let (layer, below) = preset::wechat().layer(session, origin());
    let client = layer.without_replay().layer(below.layer(platform.api()));
    let upload = || Request::post("https://api.test/media/upload").body(Full::from("an image")).unwrap();
    for (minutes, forced) in [(30, false), (30, false), (0, true), (30, false)] {
        tokio::time::advance(Duration::from_secs(minutes * 60 + 10)).await;
        let before = platform.token_calls().len();
        platform.says(200, r#"{"errcode":42001}"#);
        let response = within(client.clone().oneshot(upload())).await.unwrap();
        assert_eq!(response.extensions().get::<Outcome>().map(Outcome::attempts), Some(1));
        until(|| platform.token_calls().len() > before).await;
        let force = format!(r#""force_refresh":{forced}}}"#);
        let calls = platform.token_calls();
        assert!(calls[before].ends_with(&force), "{minutes}: {calls:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stable_token_is_forced_again_thirty_seconds_after_the_last_answer_at_the_earliest() {
    let idp = Idp::new(vec![json(200, r#"{"access_token":"t","expires_in":7200}"#); 3]);
    let asked = idp.clone();
    let platform = tower::service_fn(move |request| {
        let idp = idp.clone();
        async move {
            let answer = idp.oneshot(request).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            answer
        }
    });
    let source = StableToken::new(platform, "my-app", "s");
    for (seconds, is_forced) in [(0, true), (26, false), (25, true)] {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        source.fetch(FetchContext::new(Cause::Refused).with_fruitless(1)).await.unwrap();
        let body = asked.bodies().pop().unwrap();
        assert!(body.ends_with(&format!(r#""force_refresh":{is_forced}}}"#)), "{seconds}: {body}");
    }
}

/// One call in 31 s forces a token, for half an hour; then WeChat is as it was.
#[tokio::test(start_paused = true)]
async fn a_stable_token_that_was_not_forced_is_none_of_the_twenty_a_day() {
    let refused = || json(200, r#"{"errcode":45011,"errmsg":"api minute-quota reach limit"}"#);
    for (say, counts) in [
        (Say::Unreachable, false),
        (json(503, ""), false),
        (refused(), false),
        (json(200, r#"{"errcode":40164,"errmsg":"invalid ip"}"#), false),
        (Say::Answer(403, "text/html", "a proxy's page".into()), false),
        (Say::Reset, true),
        (Say::Truncated, true),
        (json(502, ""), true),
    ] {
        let idp = Idp::new(vec![say.clone(); 60]);
        let source = StableToken::new(idp.clone(), "my-app", "s");
        let again = || FetchContext::new(Cause::Refused).with_fruitless(1);
        for _ in 0..60 {
            source.fetch(again()).await.unwrap_err();
            tokio::time::advance(Duration::from_secs(31)).await;
        }
        idp.says([refused(), refused()]);
        for is_forced in [!counts, false] {
            source.fetch(again()).await.unwrap_err();
            let body = idp.bodies().pop().unwrap();
            assert!(body.ends_with(&format!(r#""force_refresh":{is_forced}}}"#)), "{say:?}: {body}");
        }
    }
    // Those before it are.
    let lost = || json(502, "");
    let idp = Idp::new((0..22).map(|at| if at == 10 { refused() } else { lost() }));
    let source = StableToken::new(idp.clone(), "my-app", "s");
    for _ in 0..22 {
        source.fetch(FetchContext::new(Cause::Refused).with_fruitless(1)).await.unwrap_err();
        tokio::time::advance(Duration::from_secs(31)).await;
    }
    let forced =
        idp.bodies().iter().map(|body| body.ends_with(r#""force_refresh":true}"#)).collect::<Vec<_>>();
    assert_eq!(forced, [vec![true; 21], vec![false]].concat());
}
