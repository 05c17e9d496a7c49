//! What registries say in headers and refusals: a status, `NAME: VALUE` a line, and behind an empty line a body.

use hull_image::registry::words;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::{Target, as_it_is};

const FROM: &str = "https://r.example:5000/v2/a/tags/list?n=2";

pub(crate) const TARGET: Target = Target {
    name: "headers",
    about: "headers and refusals of registries",
    seeds: || {
        [
            "206\nContent-Range: bytes 5-9/10\nRange: 0-1023\n",
            "200\nLink: </v2/a/tags/list?n=2&last=b>; rel=\"next\"\nWarning: 299 - \"it \\\"goes\\\" away\"\n",
            "200\nLink: <https://other.example/x>; rel=next\nRange: bytes=0-0\n",
            "429\nRetry-After: 17\n\n{\"errors\":[{\"code\":\"TOOMANYREQUESTS\",\"message\":\"slow\"}]}",
            "416\nRange: 0-99\n\n{\"details\":\"no\",\"message\":\"what\"}",
            "401\nWWW-Authenticate: Bearer realm=\"r\",error=\"insufficient_scope\"\n\n",
        ]
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect()
    },
    words: &[
        "Link: <",
        ">; rel=\"next\"",
        "rel=next",
        "Content-Range: bytes ",
        "Range: ",
        "bytes=",
        "Warning: 299 ",
        "Retry-After: ",
        "WWW-Authenticate: Bearer ",
        "error=\"invalid_token\"",
        "\"errors\":[",
        "\"code\":",
        "\"message\":",
        "null",
        "//",
        "../",
        "http:",
        "@",
        "?",
        "#",
        "-",
        "18446744073709551615",
        "\\u001b",
        "\n",
        "\"",
        "\\",
    ],
    block: 1,
    repair: as_it_is,
    prepare: || Box::new(read),
};

fn read(input: &[u8]) -> String {
    let mut rest = input;
    let mut next_line = || {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        line
    };
    let status = std::str::from_utf8(next_line()).ok().and_then(|text| text.parse().ok()).unwrap_or(400);
    let mut headers = HeaderMap::new();
    loop {
        let line = next_line();
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { break };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.insert(name, value);
        }
    }
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let next = value("link").and_then(|link| words::next_page(FROM, link));
    if let Some(next) = &next {
        assert!(next.to_ascii_lowercase().starts_with("https://r.example:5000"), "elsewhere: {next}");
    }
    let (first, received) =
        (value("content-range").and_then(words::first_byte), value("range").and_then(words::received));
    let warning = value("warning").and_then(words::warning);
    let told = words::refusal(status, &headers, rest);
    for text in warning.iter().chain([&told]) {
        assert!(!text.contains(char::is_control) && text.len() < 16 << 10, "{text:?}");
    }
    format!("{} {} {} {} {told}", next.is_some(), first.is_some(), received.is_some(), warning.is_some())
}

#[cfg(test)]
mod tests {
    #[test]
    fn headers() {
        crate::briefly(&super::TARGET);
    }
}
