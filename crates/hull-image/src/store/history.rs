//! How an image came to be.

use super::state::seconds;
use super::{HistoryEntry, Image, Store};

impl Store {
    /// How an image came to be, newest first. Only the image itself, and those it was committed from that are known
    /// here, have ids; the steps in between are `<missing>`, as in Docker.
    pub fn history(&self, image: &Image) -> Vec<HistoryEntry> {
        let mut layers = image.layers.iter();
        let mut entries: Vec<HistoryEntry> = image
            .config
            .history
            .iter()
            .map(|step| HistoryEntry {
                id: "<missing>".to_owned(),
                created: seconds(step.created.as_deref()),
                created_by: step.created_by.clone(),
                tags: Vec::new(),
                size: if step.empty_layer { 0 } else { layers.next().map_or(0, |layer| layer.size) },
                comment: step.comment.clone(),
            })
            .collect();
        // A configuration may say less than there are layers.
        for layer in layers {
            entries.push(HistoryEntry {
                id: "<missing>".to_owned(),
                created: 0,
                created_by: String::new(),
                tags: Vec::new(),
                size: layer.size,
                comment: String::new(),
            });
        }
        entries.reverse();
        let state = self.state();
        let mut next = state.images.get(&image.id);
        for entry in &mut entries {
            let Some(known) = next else { break };
            entry.id = known.id.to_string();
            entry.tags = known.repo_tags.clone();
            next = known.parent.and_then(|parent| state.images.get(&parent));
        }
        entries
    }
}
