//! The status page: files that are part of the program, so that it works without a network.
//!
//! It asks for `/status.json` every two seconds while it is looked at. Nothing else is fetched, and
//! the policy allows nothing else: no other host, no script or style in the markup. Names and
//! reasons that it shows come from callers, hence both the policy and text that is set as text.

use axum::{
    Router,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use xxhash_rust::xxh3::xxh3_64;

/// What a browser may do with the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; img-src 'self' data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
#[derive(Debug, Clone, Copy)]
struct File {
    path: &'static str,
    kind: &'static str,
    content: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

const FILES: [File; 7] = [
    File {
        path: "/",
        kind: HTML,
        content: include_str!("page/index.html"),
    },
    File {
        path: "/page/page.css",
        kind: STYLE,
        content: include_str!("page/page.css"),
    },
    File {
        path: "/page/page.js",
        kind: SCRIPT,
        content: include_str!("page/page.js"),
    },
    File {
        path: "/page/answers.js",
        kind: SCRIPT,
        content: include_str!("page/answers.js"),
    },
    File {
        path: "/page/tables.js",
        kind: SCRIPT,
        content: include_str!("page/tables.js"),
    },
    File {
        path: "/page/draw.js",
        kind: SCRIPT,
        content: include_str!("page/draw.js"),
    },
    File {
        path: "/page/words.js",
        kind: SCRIPT,
        content: include_str!("page/words.js"),
    },
];

/// The routes of the page.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, file| {
        let tag = format!("\"{:016x}\"", xxh3_64(file.content.as_bytes()));
        let tag = HeaderValue::try_from(tag).expect("hexadecimal digits");
        let answer = move |asked: HeaderMap| async move { file.answer(&asked, tag) };
        router.route(file.path, get(answer))
    })
}

impl File {
    /// A browser asks each time whether it has the right one: another version may run by now.
    fn answer(self, asked: &HeaderMap, tag: HeaderValue) -> Response {
        let known = asked.get(header::IF_NONE_MATCH);
        let known = known.is_some_and(|it| lists(it, &tag));
        let headers = [
            (header::ETAG, tag),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (
                header::CONTENT_SECURITY_POLICY,
                HeaderValue::from_static(POLICY),
            ),
            (
                header::REFERRER_POLICY,
                HeaderValue::from_static("no-referrer"),
            ),
        ];
        if known {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        let kind = [(header::CONTENT_TYPE, self.kind)];
        (headers, kind, self.content).into_response()
    }
}

/// RFC 9110, 13.1.2: a list of tags, compared weakly.
fn lists(known: &HeaderValue, tag: &HeaderValue) -> bool {
    let mut tags = known.as_bytes().split(|byte| *byte == b',');
    tags.any(|it| {
        let it = it.trim_ascii();
        it == b"*" || it.strip_prefix(b"W/").unwrap_or(it) == tag.as_bytes()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_tags_is_searched_for_one() {
        let tag = HeaderValue::from_static("\"ab\"");
        for known in ["\"ab\"", "W/\"ab\"", "\"cd\", \"ab\"", "*"] {
            assert!(lists(&HeaderValue::from_static(known), &tag), "{known}");
        }
        for known in ["", "ab", "\"abc\"", "W/\"cd\""] {
            assert!(!lists(&HeaderValue::from_static(known), &tag), "{known}");
        }
    }

    #[test]
    fn the_page_names_no_other_host_and_has_no_script_or_style_in_its_markup() {
        for file in FILES {
            for address in file.content.split("://").skip(1) {
                let namespace = "www.w3.org/2000/svg";
                let path = file.path;
                assert!(address.starts_with(namespace), "{path}: {address:.60}");
            }
        }
        let markup = FILES[0].content;
        for forbidden in ["<style", " style=", " onclick", " onload", "javascript:"] {
            assert!(!markup.contains(forbidden), "{forbidden}");
        }
        assert_eq!(markup.matches("<script").count(), 1);
        for file in FILES.iter().filter(|it| it.kind == SCRIPT) {
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
            ] {
                assert!(
                    !file.content.contains(forbidden),
                    "{}: {forbidden}",
                    file.path
                );
            }
        }
    }
}
