//! What a server is shown.

use std::sync::{Arc, Mutex};

use http::{Request, Response, StatusCode, Uri, header};
use tower::{Layer, ServiceExt, service_fn};
use tower_token_refresh::{
    BoxError, FetchContext, FetchError, Origin, ReplayBody, Scope, Session, Token, TokenRefreshLayer,
    source_fn,
};

/// Sends a request that is refused whatever it shows: the credential, twice, exactly if it is to.
pub(crate) async fn send(scope: Scope, assumed: Option<Origin>, uri: Uri, is_in_scope: bool) {
    let source = source_fn(|_: FetchContext| async { Ok::<_, FetchError>(Token::new("second")) });
    let session = Session::builder(source).build();
    session.login(Token::new("first")).await.unwrap();
    let shown = Arc::new(Mutex::new(Vec::new()));
    let server = {
        let shown = shown.clone();
        service_fn(move |request: Request<ReplayBody<String>>| {
            let credentials = request.headers().get(header::AUTHORIZATION).cloned();
            shown.lock().unwrap().push(credentials);
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            std::future::ready(Ok::<_, BoxError>(response))
        })
    };
    let mut request = Request::new(String::new());
    *request.uri_mut() = uri;
    let layer = TokenRefreshLayer::new(session.clone(), scope);
    let layer = match assumed {
        Some(origin) => layer.assume_origin(origin),
        None => layer,
    };
    layer.layer(server).oneshot(request).await.unwrap();
    let shown: Vec<_> =
        shown.lock().unwrap().iter().map(|it| it.clone().map(|it| it.as_bytes().to_vec())).collect();
    if is_in_scope {
        assert_eq!(shown, [Some(b"Bearer first".to_vec()), Some(b"Bearer second".to_vec())]);
    } else {
        assert_eq!(shown, [None]);
        assert_eq!(session.token().await.unwrap().access().expose(), "first");
    }
}
