//! What a cgroup uses besides: what `runc events` shows and `docker stats` does not.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::figures::Folders;
use super::files::{keyed, number, text};

/// One kind of memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// In use.
    pub usage: u64,
    /// The most that was; none where nobody counts that.
    pub max: Option<u64>,
    /// The limit, as the kernel has it; `u64::MAX` for `max`.
    pub limit: u64,
    /// Times the limit was hit.
    pub failcnt: u64,
}

/// What is counted besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Further {
    /// Memory with swap, on v2 too, whose own files have swap alone: as runc tells it.
    pub swap: Option<Counted>,
    /// The kernel's own memory.
    pub kernel: Option<Counted>,
    /// What TCP's buffers take of it.
    pub kernel_tcp: Option<Counted>,
    /// Huge pages, by their size.
    pub huge_pages: BTreeMap<String, Counted>,
    /// `cpuset`'s files, but the two lists: name and number.
    pub cpuset: Vec<(&'static str, i64)>,
    /// Its processors and memory nodes, each as a list such as `0-3,7`.
    pub places: Option<(String, String)>,
}

/// The numbers among the files of v1's `cpuset`.
const CPUSET: [&str; 9] = [
    "cpu_exclusive",
    "mem_hardwall",
    "mem_exclusive",
    "memory_migrate",
    "memory_spread_page",
    "memory_spread_slab",
    "memory_pressure",
    "sched_load_balance",
    "sched_relax_domain_level",
];

pub(super) fn read(cgroup: &impl Folders) -> io::Result<Further> {
    let mut further = Further::default();
    if let Some(folder) = cgroup.v1("memory") {
        further.swap = v1(&folder, "memory.memsw.")?;
        further.kernel = v1(&folder, "memory.kmem.")?;
        further.kernel_tcp = v1(&folder, "memory.kmem.tcp.")?;
    } else if let Some(folder) = cgroup.v2("memory") {
        further.swap = v2(&folder, "memory.swap", "max")?;
        if let Some(swap) = &mut further.swap {
            with_memory(swap, &folder)?;
        }
        let kernel = keyed(&text(&folder.join("memory.stat"))?, "kernel");
        further.kernel = kernel.map(|usage| Counted { usage, limit: u64::MAX, ..Counted::default() });
    }
    if let Some(folder) = cgroup.v1("hugetlb") {
        for size in sizes(&folder, ".limit_in_bytes")? {
            let counted = v1(&folder, &format!("hugetlb.{size}."))?;
            further.huge_pages.extend(counted.map(|counted| (size, counted)));
        }
    } else if let Some(folder) = cgroup.v2("hugetlb") {
        for size in sizes(&folder, ".current")? {
            let counted = v2(&folder, &format!("hugetlb.{size}"), "max")?;
            further.huge_pages.extend(counted.map(|counted| (size, counted)));
        }
    }
    if let Some(folder) = cgroup.v1("cpuset") {
        let list = |name: &str| Ok::<_, io::Error>(text(&folder.join(name))?.trim().to_owned());
        further.places = Some((list("cpuset.cpus")?, list("cpuset.mems")?));
        for name in CPUSET {
            let value = text(&folder.join(format!("cpuset.{name}")))?;
            further.cpuset.extend(value.trim().parse().ok().map(|value| (name, value)));
        }
    } else if let Some(folder) = cgroup.v2("cpuset") {
        let list = |name: &str| Ok::<_, io::Error>(text(&folder.join(name))?.trim().to_owned());
        further.places = Some((list("cpuset.cpus.effective")?, list("cpuset.mems.effective")?));
    }
    Ok(further)
}

fn v1(folder: &Path, prefix: &str) -> io::Result<Option<Counted>> {
    let file = |name: &str| number(&folder.join(format!("{prefix}{name}")));
    let Some(usage) = file("usage_in_bytes")? else { return Ok(None) };
    Ok(Some(Counted {
        usage,
        max: file("max_usage_in_bytes")?,
        limit: file("limit_in_bytes")?.unwrap_or(u64::MAX),
        failcnt: file("failcnt")?.unwrap_or(0),
    }))
}

fn v2(folder: &Path, prefix: &str, event: &str) -> io::Result<Option<Counted>> {
    let file = |name: &str| number(&folder.join(format!("{prefix}.{name}")));
    let Some(usage) = file("current")? else { return Ok(None) };
    let events = text(&folder.join(format!("{prefix}.events")))?;
    let limit = file("max")?.unwrap_or(u64::MAX);
    Ok(Some(Counted { usage, max: file("peak")?, limit, failcnt: keyed(&events, event).unwrap_or(0) }))
}

/// Adds what a cgroup of v2 has of memory to what it has of swap.
fn with_memory(swap: &mut Counted, folder: &Path) -> io::Result<()> {
    swap.usage += number(&folder.join("memory.current"))?.unwrap_or(0);
    let limit = number(&folder.join("memory.max"))?.unwrap_or(u64::MAX);
    swap.limit = swap.limit.saturating_add(limit);
    Ok(())
}

/// The sizes of huge pages that there are files for.
fn sizes(folder: &Path, suffix: &str) -> io::Result<Vec<String>> {
    let mut sizes = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let size = name.to_str().and_then(|name| name.strip_prefix("hugetlb.")?.strip_suffix(suffix));
        sizes.extend(size.filter(|size| !size.contains('.')).map(str::to_owned));
    }
    Ok(sizes)
}

/// A list such as `0-3,7`, whole.
pub(crate) fn numbers_of(list: &str) -> Vec<u32> {
    let mut numbers = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u32>(), last.trim().parse::<u32>()) {
            numbers.extend(first..=last);
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_written_out() {
        assert_eq!(numbers_of("0-2,7"), [0, 1, 2, 7]);
        assert_eq!(numbers_of("0"), [0]);
        assert!(numbers_of("").is_empty());
    }

    #[test]
    fn files_of_v2_are_read() {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in [
            ("hugetlb.2MB.current", "4096\n"),
            ("hugetlb.2MB.max", "max\n"),
            ("hugetlb.2MB.events", "max 3\n"),
            ("hugetlb.2MB.rsvd.current", "0\n"),
        ] {
            std::fs::write(folder.path().join(name), value).unwrap();
        }
        assert_eq!(sizes(folder.path(), ".current").unwrap(), ["2MB"]);
        let counted = v2(folder.path(), "hugetlb.2MB", "max").unwrap().unwrap();
        assert_eq!(counted, Counted { usage: 4096, max: None, limit: u64::MAX, failcnt: 3 });
        assert_eq!(v2(folder.path(), "memory.swap", "max").unwrap(), None);
        for (name, value) in [("memory.current", "4096\n"), ("memory.max", "8192\n")] {
            std::fs::write(folder.path().join(name), value).unwrap();
        }
        let swap = |limit| Counted { usage: 100, limit, ..Counted::default() };
        for (limit, with) in [(1000, 9192), (u64::MAX, u64::MAX)] {
            let mut counted = swap(limit);
            with_memory(&mut counted, folder.path()).unwrap();
            assert_eq!(counted, Counted { usage: 4196, ..swap(with) });
        }
    }
}
