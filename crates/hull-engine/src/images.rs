//! Images as the API shows them: glue above the image store.

impl From<hull_image::Error> for crate::Error {
    fn from(error: hull_image::Error) -> crate::Error {
        let kind = match error.kind {
            hull_image::Kind::NotFound => crate::Kind::NotFound,
            hull_image::Kind::InvalidParameter => crate::Kind::InvalidParameter,
            hull_image::Kind::Conflict => crate::Kind::Conflict,
            hull_image::Kind::Forbidden => crate::Kind::Forbidden,
            hull_image::Kind::NotImplemented => crate::Kind::NotImplemented,
            hull_image::Kind::System => crate::Kind::System,
        };
        crate::Error::new(kind, error.message)
    }
}

/// The store's error as the engine's.
pub(crate) fn error(error: hull_image::Error) -> crate::Error {
    error.into()
}
