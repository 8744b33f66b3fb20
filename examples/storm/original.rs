//! The request wrapper of the mini program, as it was written, mistakes included.
//!
//! On a 403 it gets a new token and sends the request once more. What it leaves out: that others may be doing the same
//! at this moment, and every ending but the good one.

use std::{
    future::pending,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tower::service_fn;
use tower_token_refresh::BoxError;

use crate::phone::{Client, Phone, with_token};

pub(crate) fn client(phone: Phone) -> Client {
    // The storage is empty at the first launch, and nobody looks: that request goes out as `Basic Og==`.
    let stored = Arc::new(Mutex::new(String::new()));
    Client::new(service_fn(move |request| send(phone.clone(), stored.clone(), request)))
}

async fn send(
    phone: Phone,
    stored: Arc<Mutex<String>>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, BoxError> {
    let first = with_token(&request, &stored.lock().expect(UNBROKEN))?;
    let response = phone.send(first).await?;
    if response.status() != StatusCode::FORBIDDEN {
        return Ok(response);
    }
    let _ = response.into_body().collect().await;

    // Nobody asks whether the refused token is still the stored one. A late 403 gets one more token, and with that
    // the server forgets the one that the others have just begun to use.
    let Ok(answer) = phone.exchange_code(request.extensions().get().copied()).await else {
        // The promise is neither resolved nor rejected.
        return pending().await;
    };
    let again = {
        // JavaScript runs to completion: between storing and reading nobody else gets a turn.
        let mut stored = stored.lock().expect(UNBROKEN);
        // No look at the answer: one without a token empties the storage.
        answer["token"].as_str().unwrap_or_default().clone_into(&mut stored);
        with_token(&request, &stored)?
    };
    let response = phone.send(again).await?;
    if response.status() == StatusCode::FORBIDDEN {
        // As above.
        return pending().await;
    }
    Ok(response)
}

const UNBROKEN: &str = "nothing panics while it holds the token";
