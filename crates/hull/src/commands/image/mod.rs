//! Images: `hull image …` and its twins at the root.

mod list;
mod referrers;
mod registry;
mod remove;
mod transfer;
mod tree;

use super::{Entry, Management};

pub use remove::prune_images;

// What stands both at the root and under `image`.
const HISTORY: Entry = entry!(
    "history",
    [],
    Commands,
    "Show the history of an image",
    "[OPTIONS] IMAGE",
    list::HistoryArgs,
    list::history
);
const IMPORT: Entry = entry!(
    "import",
    [],
    Commands,
    "Import the contents from a tarball to create a filesystem image",
    "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
    transfer::ImportArgs,
    transfer::import
);
const LOAD: Entry = entry!(
    "load",
    [],
    Commands,
    "Load an image from a tar archive or STDIN",
    "[OPTIONS]",
    transfer::LoadArgs,
    transfer::load
);
const SAVE: Entry = entry!(
    "save",
    [],
    Commands,
    "Save one or more images to a tar archive (streamed to STDOUT by default)",
    "[OPTIONS] IMAGE [IMAGE...]",
    transfer::SaveArgs,
    transfer::save
);
const TAG: Entry = entry!(
    "tag",
    [],
    Commands,
    "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    list::TagArgs,
    list::tag
);
const PULL: Entry = entry!(
    "pull",
    [],
    Common,
    "Download an image from a registry",
    "[OPTIONS] NAME[:TAG|@DIGEST]",
    registry::PullArgs,
    registry::pull
);
const PUSH: Entry = entry!(
    "push",
    [],
    Common,
    "Upload an image to a registry",
    "[OPTIONS] NAME[:TAG]",
    registry::PushArgs,
    registry::push
);

/// Which of docker's words lead to an image command at the root.
pub const ROOT: &[Entry] = &[
    entry!("images", [], Common, "List images", "[OPTIONS] [REPOSITORY[:TAG]]", list::ListArgs, list::list),
    PULL,
    PUSH,
    entry!(
        "search",
        [],
        Common,
        "Search a registry for images",
        "[OPTIONS] TERM",
        registry::SearchArgs,
        registry::search
    ),
    HISTORY,
    IMPORT,
    LOAD,
    entry!(
        "rmi",
        [],
        Commands,
        "Remove one or more images",
        "[OPTIONS] IMAGE [IMAGE...]",
        remove::RemoveArgs,
        remove::remove
    ),
    SAVE,
    TAG,
];

const ENTRIES: &[Entry] = &[
    entry!(
        "diff",
        [],
        Commands,
        "List what differs from one image to another",
        "[OPTIONS] IMAGE IMAGE",
        tree::DiffArgs,
        tree::diff
    ),
    entry!(
        "tree",
        [],
        Commands,
        "Show what each layer of an image adds, changes and hides",
        "[OPTIONS] IMAGE",
        tree::TreeArgs,
        tree::tree
    ),
    entry!(
        "bootstrap",
        [],
        Commands,
        "Make a base image from a distribution's own packages, without a registry",
        "REFERENCE",
        registry::BootstrapArgs,
        registry::bootstrap
    ),
    entry!(
        "build",
        [],
        Commands,
        "Build an image from a Dockerfile",
        "[OPTIONS] PATH | -",
        super::build::BuildArgs,
        super::build::build
    ),
    HISTORY,
    IMPORT,
    entry!(
        "inspect",
        [],
        Commands,
        "Display detailed information on one or more images",
        "[OPTIONS] IMAGE [IMAGE...]",
        list::InspectArgs,
        list::inspect
    ),
    LOAD,
    entry!(
        "ls",
        ["list"],
        Commands,
        "List images",
        "[OPTIONS] [REPOSITORY[:TAG]]",
        list::ListArgs,
        list::list
    ),
    entry!("prune", [], Commands, "Remove unused images", "[OPTIONS]", remove::PruneArgs, remove::prune),
    PULL,
    PUSH,
    entry!(
        "referrers",
        [],
        Commands,
        "List what refers to an image in its registry: signatures, bills of materials",
        "[OPTIONS] NAME[:TAG|@DIGEST]",
        referrers::ReferrersArgs,
        referrers::referrers
    ),
    entry!(
        "rm",
        ["remove"],
        Commands,
        "Remove one or more images",
        "[OPTIONS] IMAGE [IMAGE...]",
        remove::RemoveArgs,
        remove::remove
    ),
    SAVE,
    TAG,
    entry!(
        "verify",
        [],
        Commands,
        "Verify with a key that an image in a registry is signed (cosign)",
        "--key FILE NAME[:TAG|@DIGEST]",
        referrers::VerifyArgs,
        referrers::verify
    ),
];

/// `hull image`.
pub const MANAGEMENT: Management = Management { name: "image", about: "Manage images", entries: ENTRIES };

/// The rows of images as `system df -v` shows them too.
pub use list::{HEADERS as IMAGE_HEADERS, rows as image_rows};
