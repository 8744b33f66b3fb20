//! Values that cannot be used are errors when they are given, and their text says what can.

use std::{error::Error as _, time::Duration};

use http::Uri;
use tower_token_refresh::{
    Challenged, Error, ErrorKind, Origin, Placement, Session, Statuses, Token, TokenRefreshLayer,
    session::SessionBuilder,
};

use crate::{
    script::{Lab, numbered},
    world::origin,
};

const CANARY: &str = "canary";

/// Kind and text of what a constructor says: the text names what is wrong or allowed, and never the value.
#[track_caller]
fn check<T>(result: Result<T, Error>, words: &[&str]) {
    let Err(error) = result else { panic!("it was taken") };
    assert_eq!(error.kind(), ErrorKind::InvalidValue);
    let text = error.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "`{text}` does not say {words:?}");
    assert!(text.starts_with(|first: char| first.is_lowercase()) && !text.ends_with('.'), "{text}");
    assert!(!error.is_transient() && !error.is_login_required(), "no try again, no login helps");
    let everything = format!("{text} {error:?} {:?}", error.source());
    assert!(!everything.contains(CANARY), "{everything}");
}

#[test]
fn every_constructor_that_can_refuse_a_value_says_what_it_takes() {
    let layer = || TokenRefreshLayer::new(numbered().0.build(), origin());
    let builder = || numbered().0;
    const ZERO: Duration = Duration::ZERO;

    check("canary.test".parse::<Origin>(), &["scheme", "https://host"]);
    check("ftp://canary.test".parse::<Origin>(), &["scheme", "`https` or `http`"]);
    check("https://canary.test/v1".parse::<Origin>(), &["path", "Scope::only"]);
    check("https://api.test?key=canary".parse::<Origin>(), &["query", "https://host"]);
    check("https://api.test#canary".parse::<Origin>(), &["fragment", "https://host"]);
    check("https://canary@api.test".parse::<Origin>(), &["user information", "https://host"]);
    check("https://*.canary.test".parse::<Origin>(), &["host", "letters"]);
    check("https://api.test:canary".parse::<Origin>(), &["port", "65535"]);
    check("https://canary.test:99999".parse::<Origin>(), &["port", "65535"]);
    check("https://[v1.canary]".parse::<Origin>(), &["IPv6"]);
    check("http://canary.test".parse::<Origin>(), &["plain http", "https://", "danger_plain_http"]);
    check("".parse::<Origin>(), &["https://host"]);
    check(Origin::try_from(&Uri::from_static("http://canary.test")), &["plain http"]);
    check(Origin::try_from(&Uri::from_static("/canary")), &["scheme"]);
    check(Origin::danger_plain_http("canary.test"), &["scheme"]);
    check(Origin::danger_plain_http("http://canary.test/v1"), &["path"]);

    check(Placement::header("x canary"), &["header name", "letters"]);
    check(Placement::header(""), &["header name", "letters"]);
    check(Placement::header("x-canary\r\ny: z"), &["header name", "letters"]);
    for name in ["host", "Content-Length", "transfer-encoding", "connection", "te", "upgrade"] {
        check(Placement::header(name), &["HTTP's own"]);
        check(Placement::header_with_scheme(name, "Token"), &["HTTP's own"]);
    }
    check(Placement::header_with_scheme("x canary", "Token"), &["header name", "letters"]);
    check(Placement::header_with_scheme("authorization", "canary canary"), &["scheme", "one word"]);
    check(Placement::header_with_scheme("authorization", ""), &["scheme", "one word"]);
    check(Placement::query(""), &["name", "at least one character"]);

    check(Statuses::reject([0_u16; 0]), &["at least one status"]);
    check(Statuses::suspect([0_u16; 0]), &["at least one status"]);
    check(Statuses::reject([200]), &["300 to 599"]);
    check(Statuses::suspect([401, 407]), &["not 407"]);
    check(Statuses::reject([1000]), &["300 to 599"]);
    check(Challenged::new("canary canary"), &["scheme", "one word"]);
    check(Challenged::new(""), &["scheme", "one word"]);

    check(layer().replay_limit(0), &["at least 1 byte", "without_replay"]);
    check(layer().max_held(0), &["at least 1"]);

    check(builder().refresh_timeout(ZERO), &["refresh timeout", "longer than zero"]);
    check(builder().abandon_after(ZERO), &["more time than zero"]);
    check(builder().store_timeout(ZERO), &["store timeout", "longer than zero"]);
    check(builder().lease_wait(ZERO), &["lease wait", "longer than zero"]);
    check(builder().cooling(Duration::from_secs(2), Duration::from_secs(1)), &["cooling", "longer"]);
}

#[test]
fn the_extreme_values_that_are_allowed_are_taken() {
    let layer = TokenRefreshLayer::new(numbered().0.build(), origin());
    let layer = layer.replay_limit(1).unwrap().replay_limit(usize::MAX).unwrap();
    let _ = layer.max_held(1).unwrap().max_held(usize::MAX).unwrap();
    for duration in [Duration::from_nanos(1), Duration::MAX] {
        let builder = numbered().0.refresh_timeout(duration).unwrap().abandon_after(duration).unwrap();
        let builder = builder.store_timeout(duration).unwrap().lease_wait(duration).unwrap();
        let _ = builder.cooling(duration, Duration::MAX).unwrap().build();
    }
    let _ = numbered().0.cooling(Duration::ZERO, Duration::ZERO).unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_longest_durations_are_lived_with() {
    let longest = |builder: SessionBuilder| {
        let builder = builder.refresh_timeout(Duration::MAX)?.abandon_after(Duration::MAX)?;
        builder.store_timeout(Duration::MAX)?.lease_wait(Duration::MAX)?.cooling(Duration::MAX, Duration::MAX)
    };
    let lab = Lab::with([], |builder| longest(builder).unwrap(), |layer| layer);
    assert_eq!(lab.session.token().await.unwrap().access().expose(), "token-1");
    lab.session.settle().await.unwrap();
    lab.session.login(Token::new("t").expires_in(Duration::MAX)).await.unwrap();
    assert_eq!(lab.session.token().await.unwrap().access().expose(), "t");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_sent_is_refused_at_login_and_replace_and_changes_nothing() {
    let everywhere = [
        ("", "empty"),
        ("canary\r\nx: y", "visible ASCII"),
        ("canary\u{e9}", "visible ASCII"),
        (" ", "visible ASCII"),
    ];
    let placements = [
        Placement::bearer(),
        Placement::basic(),
        Placement::header("x-api-key").unwrap(),
        Placement::header_with_scheme("x-api-key", "Token").unwrap(),
        Placement::query("key").unwrap(),
    ];
    let mut cases: Vec<(Placement, &str, &str)> = Vec::new();
    for placement in placements {
        cases.extend(everywhere.map(|(text, word)| (placement.clone(), text, word)));
    }
    cases.push((Placement::basic(), "canary:secret", "colon"));
    for (placement, text, word) in cases {
        let session: Session = numbered().0.placement(placement).build();
        session.login(Token::new("before")).await.unwrap();
        check(session.login(Token::new(text)).await, &["token", word]);
        check(session.replace(Token::new(text)).await, &["token", word]);
        assert_eq!(session.token().await.unwrap().access().expose(), "before");
    }
}
