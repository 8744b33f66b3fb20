//! What all sources of this module do with what they present.

use http::Uri;

use crate::{
    secret::Secret,
    source::{
        AuthorityClient, FetchContext, FetchError, Verification,
        login::JsonVerify,
        refused::Refused,
        wire::{
            Grant, Reading,
            json::{self, Scalar},
            post,
        },
    },
    token::Token,
};

pub(super) struct Exchange {
    pub(super) client: AuthorityClient,
    pub(super) url: Uri,
    constants: Vec<(String, Scalar)>,
    pub(super) reading: Reading,
    pub(super) verify: Option<JsonVerify>,
    grant: Grant,
    refused: Refused,
}

impl Exchange {
    pub(super) fn new(client: AuthorityClient, url: Uri, grant: Grant) -> Self {
        Exchange {
            client,
            url,
            constants: Vec::new(),
            reading: Reading::default(),
            verify: None,
            grant,
            refused: match grant {
                Grant::Refresh => Refused::refresh_tokens(),
                Grant::LoginCode => Refused::codes(),
                _ => Refused::credentials(),
            },
        }
    }

    /// One more member of the request, in the place of one of the same name: it may stand there only once (RFC 8259 §4).
    pub(super) fn constant(&mut self, name: &str, value: Scalar) {
        self.constants.retain(|(earlier, _)| earlier != name);
        self.constants.push((name.to_owned(), value));
    }

    pub(super) async fn present(
        &self,
        cx: &FetchContext,
        credentials: &[(&str, &Secret)],
    ) -> Result<Token, FetchError> {
        let members = credentials.iter().map(|(name, secret)| (*name, secret.expose()));
        let request = post(&self.url, json::MEDIA_TYPE, json::object(members, &self.constants));
        let secrets = credentials.iter().map(|&(_, secret)| secret.clone()).collect();
        let attempt = self.client.ask(cx, request, &self.reading, self.grant);
        self.refused.try_with(cx.last_change, secrets, attempt).await
    }

    pub(super) async fn verify(&self, token: &Token) -> Verification {
        match &self.verify {
            Some(verify) => verify.ask(&self.client, token).await,
            None => Verification::Unknown,
        }
    }
}
