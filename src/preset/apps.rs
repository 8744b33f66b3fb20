//! Where platforms hand out tokens, and how they answer.

use http::Uri;

use super::VALID;
use crate::{
    secret::Secret,
    source::{AppToken, AuthorityClient, JsonAnswer, oauth2::TokenEndpoint},
};

/// What a platform answers that is too busy, or has been asked too often.
const BUSY: [i64; 4] = [-1, 45_009, 45_011, 45_033];

/// Tokens for WeChat's server API. Each one ends the one before after five minutes: use one session for an application,
/// in all processes, or [`StableToken`](super::StableToken).
pub fn wechat_source(
    client: impl Into<AuthorityClient>,
    app_id: impl Into<Secret>,
    secret: impl Into<Secret>,
) -> AppToken {
    AppToken::get(client, url("https://api.weixin.qq.com/cgi-bin/token"))
        .text("grant_type", "client_credential")
        .credential("appid", app_id)
        .credential("secret", secret)
        .answer(errcode())
}

/// Where WeChat hands out stable tokens.
pub(super) fn stable_token(client: AuthorityClient, app_id: Secret, secret: Secret) -> AppToken {
    AppToken::post(client, url("https://api.weixin.qq.com/cgi-bin/stable_token"))
        .text("grant_type", "client_credential")
        .credential("appid", app_id)
        .credential("secret", secret)
        .answer(errcode())
}

/// Tokens for one application of a company at WeCom.
pub fn wecom_source(
    client: impl Into<AuthorityClient>,
    corp_id: impl Into<Secret>,
    secret: impl Into<Secret>,
) -> AppToken {
    AppToken::get(client, url("https://qyapi.weixin.qq.com/cgi-bin/gettoken"))
        .credential("corpid", corp_id)
        .credential("corpsecret", secret)
        .answer(errcode())
}

/// Tokens for the old API of DingTalk.
pub fn dingtalk_old_source(
    client: impl Into<AuthorityClient>,
    app_key: impl Into<Secret>,
    secret: impl Into<Secret>,
) -> AppToken {
    AppToken::get(client, url("https://oapi.dingtalk.com/gettoken"))
        .credential("appkey", app_key)
        .credential("appsecret", secret)
        .answer(errcode())
}

/// Tokens for the new API of DingTalk.
pub fn dingtalk_source(
    client: impl Into<AuthorityClient>,
    app_key: impl Into<Secret>,
    secret: impl Into<Secret>,
) -> AppToken {
    let answer = JsonAnswer::new()
        .access_token("/accessToken")
        .and_then(|answer| answer.expires_in("/expireIn"))
        .and_then(|answer| answer.error("/code"));
    AppToken::post(client, url("https://api.dingtalk.com/v1.0/oauth2/accessToken"))
        .credential("appKey", app_key)
        .credential("appSecret", secret)
        .answer(answer.expect(VALID))
}

/// Tokens of a tenant for an application that a company has made for itself at Feishu.
pub fn feishu_source(
    client: impl Into<AuthorityClient>,
    app_id: impl Into<Secret>,
    secret: impl Into<Secret>,
) -> AppToken {
    let answer = JsonAnswer::new()
        .access_token("/tenant_access_token")
        .and_then(|answer| answer.expires_in("/expire"))
        .and_then(|answer| answer.business_code("/code"));
    AppToken::post(client, url("https://open.feishu.cn/open-apis/auth/v3/tenant_access_token/internal"))
        .credential("app_id", app_id)
        .credential("app_secret", secret)
        .answer(answer.expect(VALID).transient_codes([99_991_400]))
}

/// Where Slack rotates tokens; the client's secret goes in the form. Slack refuses at status 200: at a refresh any
/// refusal but that of the refresh token is [transient](crate::ErrorKind::Transient), even a refusal of the client.
pub fn slack_endpoint(
    client: impl Into<AuthorityClient>,
    client_id: &str,
    secret: impl Into<Secret>,
) -> TokenEndpoint {
    TokenEndpoint::new(client, url("https://slack.com/api/oauth.v2.access"))
        .client_secret_post(client_id, secret)
        .dead_codes(["invalid_refresh_token"])
}

fn errcode() -> JsonAnswer {
    JsonAnswer::new().business_code("/errcode").expect(VALID).transient_codes(BUSY)
}

fn url(text: &'static str) -> Uri {
    Uri::from_static(text)
}
