//! What registries want to know: `WWW-Authenticate` headers, one a line.

use hull_image::registry::Challenge;
use hyper::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use crate::{Target, as_it_is};

pub(crate) const TARGET: Target = Target {
    name: "challenge",
    about: "WWW-Authenticate headers of registries",
    seeds: || {
        [
            "Basic realm=\"r\"",
            "Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:a:pull\"",
            "Negotiate\nBasic",
        ]
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect()
    },
    words: &["Bearer ", "Basic ", "realm=", "service=", "scope=", "error=", "\"", "\\", ",", "\n"],
    block: 1,
    repair: as_it_is,
    prepare: || Box::new(read),
};

fn read(input: &[u8]) -> String {
    let values = input.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok());
    let headers: HeaderMap = values.map(|value| (WWW_AUTHENTICATE, value)).collect();
    match Challenge::of(&headers) {
        Challenge::None => "none".to_owned(),
        Challenge::Basic => "basic".to_owned(),
        Challenge::Bearer { realm, service, scope } => {
            format!("{} {} {}", realm.is_empty(), service.is_empty(), scope.is_empty())
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn challenges() {
        crate::briefly(&super::TARGET);
    }
}
