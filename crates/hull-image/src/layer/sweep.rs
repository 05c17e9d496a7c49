//! Removing trees with several threads, each by descriptor and following no link.
//!
//! One unlink after the other waits for the disk each time where the file system tells it at once what is free (ext4
//! mounted with `discard` and no journal: 0.3 ms for each file). Threads wait side by side, in one folder too: the kernel
//! lets go of the folder before it frees what the name stood for.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, renameat, unlinkat};
use rustix::io::Errno;

use super::remove::{DEPTH, open_folder};
use crate::disk::{FileSystem, remove_subvolume};

/// Files that one thread takes at a time.
const PIECE: usize = 64;
/// A thread more is started for so many pieces that wait: what a container leaves is done by one.
const WORTH: usize = 8;
/// As many threads at most. Twice as many are no faster, neither where the disk is waited for nor where it is not.
const THREADS: usize = 16;
/// How long a thread that was started for much work waits for more.
const IDLE: Duration = Duration::from_secs(1);
/// What runs goes first.
const NICENESS: i32 = 10;

/// The folder of what is to be removed, and the threads that do it.
#[derive(Debug)]
pub(crate) struct Sweep {
    shared: Arc<Shared>,
    first: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    folder: OwnedFd,
    is_btrfs: bool,
    count: AtomicU64,
    stop: AtomicBool,
    work: Mutex<Work>,
    came: Condvar,
}

#[derive(Debug, Default)]
struct Work {
    /// The newest is taken first, so that few folders are open at a time.
    waiting: Vec<Job>,
    helpers: Vec<JoinHandle<()>>,
    /// Of the helpers, those that have not ended.
    running: usize,
}

/// What one thread does in one go.
#[derive(Debug)]
enum Job {
    /// Something in the folder of all.
    Tree(CString),
    /// Something that is a folder, or may be.
    Folder(Arc<Folder>, CString),
    /// Something else.
    Files(Arc<Folder>, Vec<CString>),
}

/// A folder that goes when nothing in it is left to be done.
#[derive(Debug)]
struct Folder {
    opened: OwnedFd,
    name: CString,
    above: Option<Arc<Folder>>,
    depth: usize,
    tree: Arc<Tree>,
}

/// What one call is about.
#[derive(Debug)]
struct Tree {
    shared: Arc<Shared>,
    name: CString,
    failed: Mutex<Option<io::Error>>,
}

impl Sweep {
    /// Starts the first thread. Names of its own begin with `first_number` and count on.
    pub(crate) fn start(folder: OwnedFd, kind: FileSystem, first_number: u64) -> io::Result<Sweep> {
        let shared = Arc::new(Shared {
            folder,
            is_btrfs: kind == FileSystem::Btrfs,
            count: AtomicU64::new(first_number),
            stop: AtomicBool::new(false),
            work: Mutex::default(),
            came: Condvar::new(),
        });
        let first = thread(&shared, |shared| while shared.work_on(None) {})?;
        Ok(Sweep { shared, first: Some(first) })
    }

    /// A name in the folder that nothing has.
    pub(crate) fn name(&self) -> String {
        self.shared.name()
    }

    /// Removes what has this name in the folder, behind.
    pub(crate) fn remove(&self, name: CString) {
        Shared::add(&self.shared, [Job::Tree(name)]);
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        let helpers = {
            let mut work = self.shared.work();
            self.shared.stop.store(true, Ordering::Relaxed);
            std::mem::take(&mut work.helpers)
        };
        self.shared.came.notify_all();
        for thread in self.first.take().into_iter().chain(helpers) {
            let _ = thread.join();
        }
        // What waits refers to what it waits in.
        let waiting = std::mem::take(&mut self.shared.work().waiting);
        drop(waiting);
    }
}

fn thread(shared: &Arc<Shared>, body: fn(&Arc<Shared>)) -> io::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name("image-trash".to_owned()).spawn(move || {
        // Without it, it is as it was.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        body(&shared);
    })
}

impl Shared {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self) -> String {
        self.count.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// Has jobs be done, by more threads where they are many.
    fn add(shared: &Arc<Shared>, jobs: impl IntoIterator<Item = Job>) {
        let mut work = shared.work();
        work.waiting.extend(jobs);
        while work.running + 1 < THREADS && work.waiting.len() > WORTH * (work.running + 1) {
            work.helpers.retain(|helper| !helper.is_finished());
            match thread(shared, |shared| {
                while shared.work_on(Some(IDLE)) {}
                shared.work().running -= 1;
            }) {
                Ok(helper) => {
                    work.helpers.push(helper);
                    work.running += 1;
                }
                // The first thread does it all.
                Err(_) => break,
            }
        }
        drop(work);
        shared.came.notify_all();
    }

    /// Does a job, which it waits for, but not longer than that. False: there is none.
    fn work_on(self: &Arc<Self>, patience: Option<Duration>) -> bool {
        let mut work = self.work();
        let job = loop {
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            if let Some(job) = work.waiting.pop() {
                break job;
            }
            work = match patience {
                None => self.came.wait(work).unwrap_or_else(PoisonError::into_inner),
                Some(patience) => {
                    let waited = self.came.wait_timeout(work, patience);
                    let (work, waited) = waited.unwrap_or_else(PoisonError::into_inner);
                    if waited.timed_out() && work.waiting.is_empty() {
                        return false;
                    }
                    work
                }
            };
        };
        drop(work);
        match job {
            Job::Tree(name) => {
                let tree =
                    Arc::new(Tree { shared: Arc::clone(self), name: name.clone(), failed: Mutex::default() });
                self.enter(&tree, None, name);
            }
            Job::Folder(above, name) => self.enter(&Arc::clone(&above.tree), Some(above), name),
            Job::Files(folder, names) => {
                for name in names {
                    match unlinkat(&folder.opened, &name, AtFlags::empty()) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(errno) => folder.tree.fail(errno.into()),
                    }
                }
            }
        }
        true
    }

    /// Removes what has this name, or has what is in it be removed.
    fn enter(self: &Arc<Self>, tree: &Arc<Tree>, above: Option<Arc<Folder>>, name: CString) {
        let parent = above.as_ref().map_or(self.folder.as_fd(), |above| above.opened.as_fd());
        let depth = above.as_ref().map_or(0, |above| above.depth + 1);
        let mut unlinked = Errno::ISDIR;
        // Only of what is in the folder of all it is not known.
        if above.is_none() {
            match unlinkat(parent, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => return,
                Err(errno @ (Errno::ISDIR | Errno::PERM)) => unlinked = errno,
                Err(errno) => return tree.fail(errno.into()),
            }
        }
        let opened = match open_folder(parent, name.to_bytes(), unlinked) {
            Ok(Some(opened)) => opened,
            Ok(None) => return,
            Err(error) => return tree.fail(error),
        };
        if self.is_btrfs && crate::disk::is_subvolume(&opened) && remove_subvolume(parent, name.to_bytes()) {
            return;
        }
        let folder = Arc::new(Folder { opened, name, above, depth, tree: Arc::clone(tree) });
        match self.jobs_in(&folder) {
            Ok(jobs) => Shared::add(self, jobs),
            Err(error) => tree.fail(error),
        }
    }

    /// What is to be done in a folder: folders first in the list, and so last in time.
    fn jobs_in(&self, folder: &Arc<Folder>) -> io::Result<Vec<Job>> {
        let (mut files, mut jobs) = (Vec::new(), Vec::new());
        for entry in Dir::read_from(&folder.opened)? {
            let entry = entry?;
            let name = entry.file_name();
            match entry.file_type() {
                _ if matches!(name.to_bytes(), b"." | b"..") => {}
                FileType::Directory if folder.depth >= DEPTH => {
                    let up = self.name();
                    renameat(&folder.opened, name, &self.folder, up.as_str())?;
                    jobs.push(Job::Tree(CString::new(up)?));
                }
                FileType::Directory => jobs.push(Job::Folder(Arc::clone(folder), name.to_owned())),
                // A file system that does not say what it is.
                FileType::Unknown if is_folder(&folder.opened, name) => {
                    jobs.push(Job::Folder(Arc::clone(folder), name.to_owned()));
                }
                _ => files.push((entry.ino(), name.to_owned())),
            }
        }
        // Inodes that lie side by side are freed together.
        files.sort_unstable_by_key(|(inode, _)| *inode);
        let mut names = files.into_iter().map(|(_, name)| name).peekable();
        while names.peek().is_some() {
            jobs.push(Job::Files(Arc::clone(folder), names.by_ref().take(PIECE).collect()));
        }
        Ok(jobs)
    }
}

fn is_folder(folder: &OwnedFd, name: &std::ffi::CStr) -> bool {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

impl Drop for Folder {
    /// Nothing refers to it any more: it is empty, or something in it failed.
    fn drop(&mut self) {
        let shared = &self.tree.shared;
        let parent = self.above.as_ref().map_or(shared.folder.as_fd(), |above| above.opened.as_fd());
        match unlinkat(parent, &self.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => self.tree.fail(errno.into()),
        }
    }
}

impl Tree {
    /// Notes what went wrong first.
    fn fail(&self, error: io::Error) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let failed = self.failed.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(error) = failed.filter(|_| !self.shared.stop.load(Ordering::Relaxed)) {
            let name = self.name.to_string_lossy();
            tracing::warn!(
                "remove {name} from the image store's trash: {error}; it is tried again at the next start"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::time::Instant;

    use rustix::fs::{Mode, OFlags, mkdirat, openat};

    use super::*;

    fn sweep(folder: &Path) -> Sweep {
        Sweep::start(std::fs::File::open(folder).unwrap().into(), FileSystem::Other, 1000).unwrap()
    }

    fn gone(folder: &Path) {
        let begun = Instant::now();
        while std::fs::read_dir(folder).unwrap().next().is_some() {
            assert!(begun.elapsed() < Duration::from_secs(60), "it is still there");
            std::thread::yield_now();
        }
    }

    #[test]
    fn wide_and_deep_trees_go_and_what_links_lead_to_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let (trash, outside) = (scratch.path().join("trash"), scratch.path().join("outside"));
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("stays"), "x").unwrap();
        for tree in 0..4 {
            for folder in 0..30 {
                let folder = trash.join(format!("{tree}/{folder}/b"));
                std::fs::create_dir_all(&folder).unwrap();
                (0..PIECE + 3).for_each(|file| std::fs::write(folder.join(file.to_string()), "").unwrap());
                symlink(&outside, folder.join("link")).unwrap();
            }
        }
        let mut folder: OwnedFd = std::fs::File::open(&trash).unwrap().into();
        for _ in 0..2000 {
            mkdirat(&folder, "deep", Mode::RWXU).unwrap();
            folder = openat(&folder, "deep", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        std::fs::write(trash.join("file"), "").unwrap();
        let sweep = sweep(&trash);
        for name in [c"0", c"1", c"2", c"3", c"deep", c"file", c"not there"] {
            sweep.remove(name.to_owned());
        }
        gone(&trash);
        assert!(outside.join("stays").exists());
    }

    #[test]
    fn whoever_stops_it_waits_for_no_tree() {
        let scratch = tempfile::tempdir().unwrap();
        for number in 0..3000 {
            let folder = scratch.path().join(format!("a/{}", number % 100));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(number.to_string()), "").unwrap();
        }
        let sweep = sweep(scratch.path());
        sweep.remove(c"a".to_owned());
        drop(sweep);
        // What is left goes the next time.
        let again = self::sweep(scratch.path());
        again.remove(c"a".to_owned());
        gone(scratch.path());
    }

    #[test]
    fn threads_that_have_nothing_to_do_end() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("a");
        std::fs::create_dir(&folder).unwrap();
        (0..PIECE * WORTH * 4).for_each(|file| std::fs::write(folder.join(file.to_string()), "").unwrap());
        let sweep = sweep(scratch.path());
        sweep.remove(c"a".to_owned());
        gone(scratch.path());
        assert!(!sweep.shared.work().helpers.is_empty(), "much is done by one alone");
        let begun = Instant::now();
        while sweep.shared.work().running > 0 {
            assert!(begun.elapsed() < Duration::from_secs(60), "a thread stays");
            std::thread::yield_now();
        }
    }
}
