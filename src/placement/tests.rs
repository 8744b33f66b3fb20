use std::error::Error as _;

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, Method, Uri, Version};

use super::*;

fn request(uri: &str) -> Request<()> {
    Request::builder().uri(uri).body(()).unwrap()
}

fn credential(placement: &Placement, token: &str) -> Credential {
    placement.prepare(&Token::new(token)).unwrap()
}

fn attached(placement: &Placement, token: &str, mut request: Request<()>) -> Request<()> {
    credential(placement, token).attach(&mut request).unwrap();
    request
}

fn forms() -> [Placement; 5] {
    [
        Placement::bearer(),
        Placement::basic(),
        Placement::header("x-api-key").unwrap(),
        Placement::header_with_scheme(AUTHORIZATION, "Token").unwrap(),
        Placement::query("access_token").unwrap(),
    ]
}

#[test]
fn the_header_is_written_exactly_so() {
    let api_key = Placement::header("X-API-Key").unwrap();
    let token = Placement::header_with_scheme("Authorization", "Token").unwrap();
    for (placement, name, value) in [
        (Placement::bearer(), "authorization", "Bearer t"),
        (Placement::basic(), "authorization", "Basic dDo="),
        (api_key, "x-api-key", "t"),
        (token, "authorization", "Token t"),
    ] {
        let request = attached(&placement, "t", request("https://api.example.com/"));
        let expected =
            HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]);
        assert_eq!(*request.headers(), expected);
    }
}

#[test]
fn basic_is_the_token_as_a_user_name_in_padded_standard_base64() {
    for (token, value) in
        [("T", "Basic VDo="), ("NEW2", "Basic TkVXMjo="), ("ab", "Basic YWI6"), ("~~~?>", "Basic fn5+Pz46")]
    {
        let request = attached(&Placement::basic(), token, request("/"));
        assert_eq!(request.headers()[AUTHORIZATION], value);
    }
    let long = "x".repeat(5000);
    let request = attached(&Placement::basic(), &long, request("/"));
    let value = request.headers()[AUTHORIZATION].to_str().unwrap().strip_prefix("Basic ").unwrap();
    assert_eq!(BASE64_STANDARD.decode(value).unwrap(), format!("{long}:").into_bytes());
}

#[test]
fn basic_refuses_a_token_with_a_colon() {
    let error = Placement::basic().prepare(&Token::new("user:word")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidValue);
    assert!(Placement::bearer().prepare(&Token::new("user:word")).is_ok());
}

#[test]
fn an_empty_token_is_an_error_and_not_an_empty_credential() {
    for placement in forms().into_iter().chain([Placement::custom(|_, _| Ok(()))]) {
        let error = placement.prepare(&Token::new("")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidValue, "{placement:?}");
    }
}

#[test]
fn a_token_with_a_line_break_or_invisible_bytes_is_an_error_that_does_not_show_it() {
    for bad in ["\r\n", "\n", "\0", "\t", " ", "\u{7f}", "\u{e9}", "\u{200b}"] {
        let token = Token::new(format!("canary{bad}canary"));
        for placement in forms() {
            let error = placement.prepare(&token).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidValue, "{placement:?} {bad:?}");
            assert!(!format!("{error} {error:?} {:?}", error.source()).contains("canary"));
        }
    }
}

#[test]
fn the_header_value_is_built_once_shared_and_sensitive() {
    let credential = credential(&Placement::bearer(), "canary");
    let [mut first, mut second] = [request("/"), request("/")];
    credential.attach(&mut first).unwrap();
    credential.clone().attach(&mut second).unwrap();
    let [first, second] = [&first.headers()[AUTHORIZATION], &second.headers()[AUTHORIZATION]];
    assert_eq!(first.as_bytes().as_ptr(), second.as_bytes().as_ptr(), "one buffer");
    assert!(first.is_sensitive() && second.is_sensitive());
}

#[test]
fn a_header_of_the_callers_own_is_left_as_it_was_and_so_are_the_others() {
    let token = credential(&Placement::bearer(), "canary");
    for own in [&["Bearer a"][..], &["Bearer a", "Bearer b"]] {
        for others in [&[][..], &["1"], &["1", "2"]] {
            let mut request = request("/");
            let headers = request.headers_mut();
            headers.append("x-before", HeaderValue::from_static("0"));
            for value in own {
                headers.append(AUTHORIZATION, HeaderValue::from_static(value));
            }
            for value in others {
                headers.append("x-other", HeaderValue::from_static(value));
            }
            let before = headers.clone();
            assert!(!token.attach(&mut request).unwrap());
            assert!(request.headers().iter().eq(&before), "{own:?} {others:?}");

            request.headers_mut().remove(AUTHORIZATION);
            let before = request.headers().clone();
            assert!(token.attach(&mut request).unwrap());
            assert_eq!(request.headers_mut().remove(AUTHORIZATION).unwrap(), "Bearer canary");
            assert_eq!(*request.headers(), before);
        }
    }
}

#[test]
fn the_query_parameter_comes_last_and_the_others_keep_their_bytes_and_order() {
    let placement = Placement::query("access_token").unwrap();
    for (before, after) in [
        ("https://a.example", "https://a.example/?access_token=T"),
        ("https://a.example/p", "https://a.example/p?access_token=T"),
        ("https://a.example/p?", "https://a.example/p?access_token=T"),
        ("/p?b=2&a=1&b=%7e+", "/p?b=2&a=1&b=%7e+&access_token=T"),
        (
            "/p?access_token2=x&xaccess_token=y&Access_Token=z",
            "/p?access_token2=x&xaccess_token=y&Access_Token=z&access_token=T",
        ),
        ("/p?a&&b=&", "/p?a&&b=&&access_token=T"),
        ("/p?%zz%4=%", "/p?%zz%4=%&access_token=T"),
    ] {
        assert_eq!(attached(&placement, "T", request(before)).uri().to_string(), after, "{before}");
    }
    for own in [
        "/p?access_token=old",
        "/p?access_token",
        "/p?b=2&access_token=old&a=1&access_token=older",
        "/p?b&access%5ftoken=old&%61ccess_token=x",
    ] {
        let mut request = request(own);
        assert!(!credential(&placement, "T").attach(&mut request).unwrap());
        assert_eq!(request.uri(), own, "left alone");
    }
}

#[test]
fn name_and_value_of_the_query_parameter_are_percent_encoded() {
    let placement = Placement::query("my key+é").unwrap();
    let once = attached(&placement, "a+b/c=&#%?~-._", request("/p?x=1"));
    assert_eq!(once.uri(), "/p?x=1&my%20key%2B%C3%A9=a%2Bb%2Fc%3D%26%23%25%3F~-._");
    assert!(placement.is_set(&once));
    assert!(placement.is_set(&request("/p?my+key%2b%c3%a9")));
}

#[test]
fn a_uri_that_cannot_take_the_parameter_is_an_error_that_does_not_show_the_token() {
    let credential = credential(&Placement::query("key").unwrap(), "canary");
    for uri in ["*".to_owned(), "api.example.com:443".to_owned(), format!("/{}", "x".repeat(65_530))] {
        let mut request = request(&uri);
        let error = credential.attach(&mut request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidValue);
        assert!(!format!("{error} {error:?} {:?}", error.source()).contains("canary"));
        assert_eq!(request.uri().to_string(), uri, "unchanged");
    }
}

#[test]
fn a_credential_of_the_callers_own_is_noticed() {
    let [bearer, basic, api_key, token, query] = forms();
    let with = |name: &'static str| Request::builder().header(name, "mine").body(()).unwrap();
    for (placement, name) in [
        (bearer, "authorization"),
        (basic, "authorization"),
        (api_key, "x-api-key"),
        (token, "authorization"),
    ] {
        assert!(placement.is_set(&with(name)), "{placement:?}");
        assert!(!placement.is_set(&with("x-other")), "{placement:?}");
    }
    for (uri, set) in [
        ("/?access_token=mine", true),
        ("/?a=b&access%5Ftoken=", true),
        ("/?access_token", true),
        ("/?a=access_token", false),
        ("/access_token", false),
    ] {
        assert_eq!(query.is_set(&request(uri)), set, "{uri}");
    }
}

#[test]
fn a_custom_placement_sees_and_changes_the_whole_head_and_nothing_else() {
    let placement = Placement::custom(|head, token| {
        assert_eq!((head.method(), head.uri().path(), head.version()), (&Method::PUT, "/p", Version::HTTP_2));
        assert_eq!((head.headers()["x-other"].as_bytes(), head.extensions().get()), (&b"1"[..], Some(&7_u8)));
        let value = HeaderValue::from_str(token.access().expose())?;
        head.headers_mut().insert("x-custom", value);
        head.extensions_mut().insert("seen");
        Ok(())
    });
    let mut request = request("/p");
    *request.method_mut() = Method::PUT;
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().insert("x-other", HeaderValue::from_static("1"));
    request.extensions_mut().insert(7_u8);

    let request = attached(&placement, "t", request);

    assert_eq!(
        (request.method(), request.uri(), request.version()),
        (&Method::PUT, &Uri::from_static("/p"), Version::HTTP_2)
    );
    assert_eq!(
        (&request.headers()["x-other"], &request.headers()["x-custom"]),
        (&HeaderValue::from_static("1"), &HeaderValue::from_static("t"))
    );
    assert_eq!((request.extensions().get(), request.extensions().get()), (Some(&7_u8), Some(&"seen")));
}

#[test]
fn an_error_of_a_custom_placement_is_the_cause_and_leaves_the_request_whole() {
    let credential = credential(&Placement::custom(|_, _| Err("no key at hand".into())), "canary");
    let mut request = request("/p");
    let error = credential.attach(&mut request).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidValue);
    assert_eq!(error.source().unwrap().to_string(), "no key at hand");
    assert_eq!(request.uri().path(), "/p");
}

#[test]
fn a_custom_placement_may_take_a_token_of_any_text() {
    let token = Token::new("{\"id\": \"é\"}\n");
    assert!(Placement::custom(|_, _| Ok(())).prepare(&token).is_ok());
}

#[test]
fn an_unfit_name_is_refused_when_the_placement_is_built() {
    for name in ["", "x api", "x:api", "é", "x\r\n"] {
        assert_eq!(Placement::header(name).unwrap_err().kind(), ErrorKind::InvalidValue, "{name:?}");
        assert_eq!(
            Placement::header_with_scheme("x-api", name).unwrap_err().kind(),
            ErrorKind::InvalidValue,
            "{name:?}"
        );
    }
    assert_eq!(Placement::query("").unwrap_err().kind(), ErrorKind::InvalidValue);
}

#[test]
fn debug_shows_no_token() {
    for placement in forms().into_iter().chain([Placement::custom(|_, _| Ok(()))]) {
        let credential = credential(&placement, "canary");
        assert_eq!(format!("{credential:?}"), "Credential(..)");
        let mut request = request("/");
        credential.attach(&mut request).unwrap();
        assert!(!format!("{:?}", request.headers()).contains("canary"), "{placement:?}");
    }
}
