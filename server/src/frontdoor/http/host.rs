//! Which hosts may be asked for (P19).
//!
//! A page of any web site can have its own name lead to 127.0.0.1 and then read what answers there,
//! as if it were that site's (DNS rebinding). Such a request has the site's name in `Host`, and a
//! browser lets nobody choose that. So a daemon that listens on a loopback address answers only
//! those who ask for an IP address, or for `localhost`, which browsers do not look up
//! (<https://www.rfc-editor.org/rfc/rfc6761#section-6.3>).

use std::net::IpAddr;

use axum::{
    extract::Request,
    http::{StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

/// Refuses what asks for a name that could be anybody's.
pub(super) async fn only_local(request: Request, next: Next) -> Response {
    if is_local(&request) {
        return next.run(request).await;
    }
    let text = "Host: this daemon listens on a loopback address and is there for who asks for an \
                IP address or localhost; use http://127.0.0.1 and its port\n";
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

fn is_local(request: &Request) -> bool {
    // Without any it is a program that asks: browsers always send one.
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let in_line = request.uri().authority();
    hosts.all(|host| Authority::try_from(host.as_bytes()).is_ok_and(|it| names_this_host(&it)))
        && in_line.is_none_or(names_this_host)
}

fn names_this_host(authority: &Authority) -> bool {
    let host = authority.host();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    bare.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn addresses_and_localhost_are_local_and_names_are_not() {
        let table = [
            ("127.0.0.1:7467", true),
            ("10.1.2.3", true),
            ("[::1]:7467", true),
            ("localhost:80", true),
            ("LocalHost.", true),
            ("a.localhost:7467", true),
            ("evil.example", false),
            ("evil.example:7467", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example", false),
            ("notlocalhost", false),
            ("127.0.0.1@evil.example", false),
            ("", false),
            ("a b", false),
        ];
        let ask = |target: &str, hosts: &[&str]| {
            let mut request = Request::builder().uri(target);
            for host in hosts {
                request = request.header(header::HOST, *host);
            }
            is_local(&request.body(Body::empty()).expect("is one"))
        };
        for (host, local) in table {
            assert_eq!(ask("/", &[host]), local, "{host}");
            assert!(!ask("/", &[host, "evil.example"]), "{host}");
        }
        assert!(ask("/", &[]));
        assert!(ask("http://localhost/", &["localhost"]));
        assert!(!ask("http://evil.example/", &["localhost"]));
    }
}
