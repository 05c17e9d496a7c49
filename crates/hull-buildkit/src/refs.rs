//! What a build that a client steers has made, under the names by which the client hands it on. Each image of each result has a
//! name of its own, as BuildKit's have: two results may have an image in common.

use std::collections::{BTreeSet, HashMap};

use crate::grpc::{Code, Result, Status};

/// So many images of one build are kept until it has said which it wants.
const IMAGES: usize = 64;

/// Results, each with what was made and its images.
pub(crate) struct Results<M, I> {
    /// The images by their names, and which result each is of.
    named: HashMap<String, (I, usize)>,
    results: Vec<One<M>>,
}

/// A result: what was made, until it is returned, and the names of its images.
struct One<M> {
    made: Option<M>,
    names: BTreeSet<String>,
}

impl<M, I> Default for Results<M, I> {
    fn default() -> Self {
        Results { named: HashMap::new(), results: Vec::new() }
    }
}

impl<M, I> Results<M, I> {
    /// Keeps a result, whose images come with their ids; their names, in the same order.
    ///
    /// # Errors
    /// The build has too many already.
    pub(crate) fn add(&mut self, made: M, images: Vec<(String, I)>) -> Result<Vec<String>> {
        if self.named.len() + images.len() > IMAGES {
            let what = format!(
                "one build has {IMAGES} images at most of results that it has not asked for: return one, or solve in another build"
            );
            return Err(Status::new(Code::FailedPrecondition, what));
        }
        let number = self.results.len();
        // With the image's id: what another build calls by the same name is that very image.
        let name = |(position, (id, _)): (usize, &(String, I))| format!("{id}.{number}.{position}");
        let names: Vec<String> = images.iter().enumerate().map(name).collect();
        for (name, (_, image)) in names.iter().zip(images) {
            self.named.insert(name.clone(), (image, number));
        }
        self.results.push(One { made: Some(made), names: names.iter().cloned().collect() });
        Ok(names)
    }

    /// The image of a name.
    pub(crate) fn image(&self, name: &str) -> Option<&I> {
        self.named.get(name).map(|(image, _)| image)
    }

    /// Takes the result whose images these are.
    ///
    /// # Errors
    /// There is none, or it was taken; or they are some of several results', or of one but not all.
    pub(crate) fn take(&mut self, names: &BTreeSet<String>) -> Result<M> {
        let first = names.first().map(String::as_str).unwrap_or_default();
        let unknown = || Status::new(Code::InvalidArgument, format!("invalid reference {first}"));
        let (_, number) = self.named.get(first).ok_or_else(unknown)?;
        let one = self.results.get_mut(*number).ok_or_else(unknown)?;
        if one.names != *names {
            let what = "a result of other images than one build has made is not supported by hull";
            return Err(Status::new(Code::Unimplemented, what));
        }
        one.made.take().ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(ids: &[&str]) -> Vec<(String, ())> {
        ids.iter().map(|id| ((*id).to_owned(), ())).collect()
    }

    fn set(names: &[String]) -> BTreeSet<String> {
        names.iter().cloned().collect()
    }

    #[test]
    fn results_that_have_an_image_in_common_are_each_there() {
        let mut results = Results::default();
        let several = results.add("several", images(&["amd64", "arm64"])).unwrap();
        let one = results.add("one", images(&["amd64"])).unwrap();
        assert!(results.image(&several[0]).is_some() && results.image("amd64").is_none());
        assert_eq!(results.take(&set(&several[..1])).unwrap_err().code, Code::Unimplemented);
        assert_eq!(results.take(&set(&several)).unwrap(), "several");
        assert_eq!(results.take(&set(&several)).unwrap_err().code, Code::InvalidArgument);
        assert_eq!(results.take(&set(&one)).unwrap(), "one");
        // Images of one id for two platforms.
        let same = results.add("same", images(&["any", "any"])).unwrap();
        assert_eq!(set(&same).len(), 2);
        assert_eq!(results.take(&set(&same)).unwrap(), "same");
    }

    #[test]
    fn what_has_no_room_leaves_nothing() {
        let mut results = Results::default();
        for number in 0..IMAGES - 1 {
            results.add(number, images(&["x"])).unwrap();
        }
        assert_eq!(results.add(0, images(&["a", "b"])).unwrap_err().code, Code::FailedPrecondition);
        assert_eq!(results.named.len(), IMAGES - 1);
        results.add(0, images(&["a"])).unwrap();
    }
}
