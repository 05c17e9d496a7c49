//! What was built leaves: each output is a step of its own behind those of the Dockerfile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use hull_engine::Kind;
use hull_image::Image;
use hull_image::reference::Reference;
use serde_json::{Value, json};

use crate::build::Build;
use crate::failure::{Failure, Result};
use crate::output::{self, Output};
use crate::progress::Event;

/// What is told of what was made, under BuildKit's names for it.
pub(crate) type Told = BTreeMap<String, Value>;

impl Build {
    /// Sends an image where the request wants it; what is told of it then.
    pub(crate) async fn exported(self: &Arc<Build>, image: &Arc<Image>) -> Result<Told> {
        let mut told = output::told(image, &self.names);
        let total = self.plan.steps();
        let mut pushes = Vec::new();
        for output in self.request.outputs.iter().filter(|output| output.push) {
            pushes.extend(output.names.iter().map(|name| (output, name)));
        }
        for (at, (output, name)) in pushes.into_iter().enumerate() {
            let step = total + 1 + at;
            self.say(Event::Step {
                step,
                total,
                stage: self.plan.stages.len(),
                name: "export".to_owned(),
                text: format!("pushing {name}"),
            });
            let begun = Instant::now();
            match Box::pin(self.pushed(image, output, name, step)).await {
                Ok(pushed) => told.extend(pushed),
                Err(failure) => {
                    self.say(Event::Failed { step });
                    return Err(failure);
                }
            }
            let seconds = begun.elapsed().as_secs_f64();
            self.say(Event::Done { step, id: image.id.to_string(), cached: false, seconds });
        }
        Ok(told)
    }

    async fn pushed(
        self: &Arc<Build>,
        image: &Arc<Image>,
        output: &Output,
        name: &Reference,
        step: usize,
    ) -> Result<Told> {
        self.check()?;
        if !self.request.may_fetch {
            return Err(Failure::new(
                Kind::Forbidden,
                format!(
                    "push {name}: the daemon sends it from the host's network, which this socket refuses to builds; push the \
                     image when it is built"
                ),
            ));
        }
        let build = Arc::clone(self);
        let tell = Arc::new(move |told: hull_image::registry::Step| {
            // How far a layer has come is for who watches alone.
            if told.progress.is_none() {
                build.say(Event::Output {
                    step,
                    text: format!("{}: {}\n", told.id, told.status),
                    error: false,
                });
            }
        });
        let who = self.credentials(&name.domain);
        let sent = self.engine.push_built(image, name, &who, &output.dress, tell).await?;
        let text = format!("{}: digest: {} size: {}\n", name.familiar(), sent.digest, sent.size);
        self.say(Event::Output { step, text, error: false });
        let descriptor = json!({ "mediaType": sent.media_type, "digest": sent.digest, "size": sent.size });
        Ok(Told::from([
            ("containerimage.digest".to_owned(), json!(sent.digest)),
            ("containerimage.descriptor".to_owned(), descriptor),
        ]))
    }
}
