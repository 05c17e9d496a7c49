//! The named points of [`hull_image::fault`], with this crate's error.

pub(crate) use hull_image::fault::passed;

/// A point that is passed.
///
/// # Errors
/// A test wants this step to fail.
pub(crate) fn point(of: &str, step: &str) -> crate::Result<()> {
    Ok(hull_image::fault::point(of, step)?)
}
