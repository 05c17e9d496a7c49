//! How many bytes trees take that the kernel does not count for us: measured behind, and kept. Who asks waits a moment for
//! what is measured, and gets what was known before where that takes longer: `system df` answers at once, however much
//! there is.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// How long an answer waits for what is measured.
const PATIENCE: Duration = Duration::from_millis(500);

/// The sizes of folders, as they were when they were last measured.
#[derive(Debug, Default)]
pub(crate) struct Sizes(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    known: HashMap<PathBuf, u64>,
    /// The measurement that is on its way: it becomes true when it is done.
    running: Option<watch::Receiver<bool>>,
}

impl Sizes {
    /// The sizes of these folders; one that has never been measured to its end has none. Folders that are not among them
    /// are forgotten.
    pub(crate) async fn of(&self, folders: Vec<PathBuf>) -> HashMap<PathBuf, u64> {
        if folders.is_empty() {
            return HashMap::new();
        }
        // What runs already may have passed a folder by before it changed: then it is waited for, and all measured anew.
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let (mut done, ours) = self.measure(&folders);
                let _ = done.wait_for(|done| *done).await;
                if ours {
                    break;
                }
            }
        });
        let _ = waited.await;
        let mut state = locked(&self.0);
        let wanted: HashSet<&PathBuf> = folders.iter().collect();
        state.known.retain(|folder, _| wanted.contains(folder));
        state.known.clone()
    }

    /// Begins to measure, or joins what is on its way. Whether it was begun.
    fn measure(&self, folders: &[PathBuf]) -> (watch::Receiver<bool>, bool) {
        let mut state = locked(&self.0);
        if let Some(running) = &state.running {
            return (running.clone(), false);
        }
        let (done, running) = watch::channel(false);
        state.running = Some(running.clone());
        let (shared, folders) = (Arc::clone(&self.0), folders.to_vec());
        tokio::task::spawn_blocking(move || {
            for folder in folders {
                match hull_image::tree_size(&folder) {
                    Ok(bytes) => drop(locked(&shared).known.insert(folder, bytes)),
                    // It went meanwhile, or cannot be walked: what was known of it is not right any more.
                    Err(_) => drop(locked(&shared).known.remove(&folder)),
                }
            }
            locked(&shared).running = None;
            let _ = done.send(true);
        });
        (running, true)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sizes_are_measured_anew_and_forgotten_with_their_folders() {
        let scratch = tempfile::tempdir().unwrap();
        let (one, two) = (scratch.path().join("one"), scratch.path().join("two"));
        for folder in [&one, &two] {
            std::fs::create_dir(folder).unwrap();
        }
        std::fs::write(one.join("a"), [0; 1000]).unwrap();
        std::fs::hard_link(one.join("a"), one.join("b")).unwrap();
        let sizes = Sizes::default();
        let all = vec![one.clone(), two.clone()];
        assert_eq!(sizes.of(all.clone()).await, HashMap::from([(one.clone(), 1000), (two.clone(), 0)]));
        std::fs::write(two.join("c"), [0; 5]).unwrap();
        assert_eq!(sizes.of(all).await[&two], 5);
        std::fs::remove_dir_all(&two).unwrap();
        assert_eq!(sizes.of(vec![one.clone(), two]).await, HashMap::from([(one, 1000)]));
    }
}
