use std::{future::poll_fn, pin::pin, sync::Arc, time::Duration};

use bytes::Buf;
use http::{HeaderMap, Response, StatusCode, header};
use http_body::Body;
use zeroize::Zeroizing;

use super::{form, json::Json};
use crate::{
    error::{BoxError, Error},
    extension::{Outcome, RefreshFailure},
    json,
    media_type::media_type,
    timer::within,
};

/// An answer that has come as far as it counts.
pub(in crate::source) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Empty if it was longer than the limit, or broke off, or stalled, below a status that says it all.
    pub(super) body: Zeroizing<Vec<u8>>,
    /// The body, if it is JSON or (by its content type) a form.
    pub(super) document: Option<Arc<Json>>,
    /// What the layer of another session in the client says: it is that session's token that was refused here, and the
    /// request was not sent with another.
    pub(super) is_of_layer: bool,
    /// Why there is no other, if that is the reason.
    pub(super) failure_of_layer: Option<Error>,
    /// It is the answer to the last of several attempts, as a `Retry` in the client makes them.
    pub(super) is_repeated: bool,
}

impl Answer {
    pub(super) fn new(status: StatusCode, headers: HeaderMap, body: Zeroizing<Vec<u8>>) -> Self {
        // Some say of JSON that it is a form.
        let text = json::without_mark(&body);
        let is_form = is_form(&headers) && !text.trim_ascii_start().starts_with(b"{");
        let document = if is_form { Some(form::decode(text)) } else { Json::parse(&body) };
        let document = document.map(Arc::new);
        Answer {
            status,
            headers,
            body,
            document,
            is_of_layer: false,
            failure_of_layer: None,
            is_repeated: false,
        }
    }

    /// Reads at most `limit` bytes of the body, beyond which it counts for nothing. Where the status says it all it is not
    /// waited for for longer than `patience`.
    pub(super) async fn read<B>(
        response: Response<B>,
        limit: usize,
        patience: Duration,
    ) -> Result<Self, BoxError>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let (mut head, body) = response.into_parts();
        let body = if asks_for_another_time(head.status) {
            // Whatever becomes of it, also if nothing does.
            within(patience, bytes_of(body, limit)).await.and_then(Result::ok).unwrap_or_default()
        } else {
            bytes_of(body, limit).await?
        };
        let failure_of_layer = head.extensions.remove().map(|RefreshFailure(error)| error);
        // A second refusal is none of that session's token, which was new.
        let was_not_resent = |outcome: &Outcome| outcome.not_resent.is_some();
        let is_of_layer = failure_of_layer.is_some() || head.extensions.get().is_some_and(was_not_resent);
        Ok(Answer { is_of_layer, failure_of_layer, ..Answer::new(head.status, head.headers, body) })
    }

    /// Whether it comes from a program that speaks of tokens, readable or not; a page is for people.
    pub(super) fn is_data(&self) -> bool {
        let is_json = |media_type: &str| media_type.to_ascii_lowercase().ends_with("json");
        self.document.is_some() || is_form(&self.headers) || media_type(&self.headers).is_some_and(is_json)
    }

    /// Why nothing is read from it.
    pub(super) fn unread(&self) -> Option<&'static str> {
        let encoding = self.headers.get(header::CONTENT_ENCODING);
        match &self.document {
            _ if self.status.is_redirection() => Some("redirects are not followed"),
            _ if self.body.is_empty() => Some("its body is empty, has not come, or is longer than is read"),
            Some(_) => None,
            None if encoding.is_some_and(|encoding| encoding != "identity") => {
                Some("its body has a content encoding")
            }
            None => Some("its body is not JSON"),
        }
    }

    /// The document of a success.
    pub(in crate::source) fn success(&self) -> Option<&Json> {
        self.document.as_deref().filter(|_| self.status.is_success())
    }
}

/// Whether this says by itself that the authority has not looked at what was presented.
pub(super) fn asks_for_another_time(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_EARLY
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::SERVICE_UNAVAILABLE
    )
}

/// Nothing if there are more than `limit`.
async fn bytes_of<B>(body: B, limit: usize) -> Result<Zeroizing<Vec<u8>>, BoxError>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let mut body = pin!(body);
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(limit);
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected.min(limit)));
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let Ok(mut data) = frame.map_err(Into::into)?.into_data() else { continue };
        if data.remaining() > limit - bytes.len() {
            return Ok(Zeroizing::default());
        }
        while data.has_remaining() {
            let length = data.chunk().len();
            bytes.extend_from_slice(data.chunk());
            data.advance(length);
        }
    }
    Ok(bytes)
}

fn is_form(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|media_type| media_type.eq_ignore_ascii_case(form::MEDIA_TYPE))
}
