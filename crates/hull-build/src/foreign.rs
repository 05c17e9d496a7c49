//! Programs for other machines: which of them the kernel runs here, by itself or by the emulators that it knows (`binfmt_misc`).

use std::path::Path;

use hull_image::Platform;

/// Where the kernel lists the emulators that it knows, where that is mounted.
const KNOWN: &str = "/proc/sys/fs/binfmt_misc";

/// An amd64 kernel has this where it was built for the programs of 386, too.
const BUILT_FOR_386: &str = "/proc/sys/abi/vsyscall32";

/// What the kernel was started with: since 6.7 that may keep it from those programs. Where its configuration does, nothing
/// tells it.
const STARTED_WITH: &str = "/proc/cmdline";

/// How programs for a platform begin: its architecture and variant, the class and order of its words, and the machine's number
/// in ELF.
type Machine = (&'static str, &'static str, u8, Order, u16);

/// The order of bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Little = 1,
    Big = 2,
}

const MACHINES: &[Machine] = &[
    ("amd64", "", 2, Order::Little, 62),
    ("386", "", 1, Order::Little, 3),
    ("arm64", "", 2, Order::Little, 183),
    ("arm", "v7", 1, Order::Little, 40),
    ("riscv64", "", 2, Order::Little, 243),
    ("ppc64le", "", 2, Order::Little, 21),
    ("s390x", "", 2, Order::Big, 22),
    ("mips64le", "", 2, Order::Little, 8),
    ("mips64", "", 2, Order::Big, 8),
    ("loong64", "", 2, Order::Little, 258),
];

/// The first bytes of a program for a machine.
fn head((_, _, class, order, number): &Machine) -> Vec<u8> {
    let halves = |value: u16| match order {
        Order::Little => value.to_le_bytes(),
        Order::Big => value.to_be_bytes(),
    };
    let mut head = b"\x7fELF".to_vec();
    head.extend([*class, *order as u8, 1]);
    head.resize(16, 0);
    // Something that can be executed.
    head.extend(halves(2));
    head.extend(halves(*number));
    head
}

/// The other platforms whose programs run here.
pub fn platforms() -> Vec<Platform> {
    let started_with = std::fs::read_to_string(STARTED_WITH).unwrap_or_default();
    known_in(Path::new(KNOWN), Path::new(BUILT_FOR_386).exists() && !is_kept_from_386(&started_with))
}

/// Whether a kernel that was started with these words leaves the programs of 386 alone. The last word counts.
fn is_kept_from_386(words: &str) -> bool {
    let said = words.split_whitespace().filter_map(|word| word.strip_prefix("ia32_emulation=")).next_back();
    // As the kernel reads it.
    said.is_some_and(|said| {
        said.starts_with(['0', 'n', 'N', 'f', 'F']) || said.to_ascii_lowercase().starts_with("of")
    })
}

/// The architecture beside its own whose programs a machine runs by itself. That of 32-bit ARM depends on the processor, and
/// nothing tells it: what cannot be run turns out as it is.
fn runs_itself(host: &str, runs_386: bool) -> Option<&'static str> {
    (host == "amd64" && runs_386).then_some("386")
}

fn known_in(folder: &Path, runs_386: bool) -> Vec<Platform> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let known: Vec<Format> =
        entries.filter_map(|entry| Format::of(&std::fs::read_to_string(entry.path()).ok()?)).collect();
    let host = Platform::host().architecture;
    let itself = runs_itself(&host, runs_386);
    let emulated = |machine: &Machine| known.iter().any(|format| format.takes(&head(machine)));
    let runs = |machine: &&Machine| machine.0 != host && (itself == Some(machine.0) || emulated(machine));
    let platform = |(architecture, variant, ..): &Machine| Platform {
        os: "linux".to_owned(),
        architecture: (*architecture).to_owned(),
        variant: (*variant).to_owned(),
    };
    MACHINES.iter().filter(runs).map(platform).collect()
}

/// What files an emulator is for.
struct Format {
    offset: usize,
    magic: Vec<u8>,
    mask: Vec<u8>,
}

impl Format {
    /// As the kernel writes it; none where it goes by the name of files, or is disabled.
    fn of(text: &str) -> Option<Format> {
        let mut lines = text.lines();
        if lines.next()? != "enabled" {
            return None;
        }
        let (mut offset, mut magic, mut mask) = (0, Vec::new(), Vec::new());
        for line in lines {
            match line.split_once(' ') {
                Some(("offset", value)) => offset = value.parse().ok()?,
                Some(("magic", value)) => magic = bytes(value)?,
                Some(("mask", value)) => mask = bytes(value)?,
                _ => {}
            }
        }
        mask.resize(magic.len(), 0xff);
        (!magic.is_empty()).then_some(Format { offset, magic, mask })
    }

    fn takes(&self, head: &[u8]) -> bool {
        let wanted = self.magic.iter().zip(&self.mask).enumerate();
        wanted.map(|(at, (magic, mask))| (head.get(self.offset + at), magic, mask)).all(
            |(byte, magic, mask)| {
                // What is behind the head is no machine's.
                (byte.copied().unwrap_or_default() ^ magic) & mask == 0
            },
        )
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// What to do where the kernel could not run a program of an image for another machine; none where it is for this one, or has
/// an emulator: then it is the program's own fault. An image that does not say what it is for is this machine's.
pub(crate) fn advice(of: &Platform) -> Option<String> {
    advice_in(Path::new(KNOWN), of)
}

fn advice_in(folder: &Path, of: &Platform) -> Option<String> {
    let (host, Platform { os, architecture, .. }) = (Platform::host(), of);
    let is_own =
        (os.is_empty() || *os == host.os) && (architecture.is_empty() || *architecture == host.architecture);
    // Not what the kernel is said to run by itself: it has just said that it does not.
    let emulated = || known_in(folder, false);
    let runs = || emulated().iter().any(|known| known.os == *os && known.architecture == *architecture);
    (!is_own && !runs()).then(|| {
        if runs_itself(&host.architecture, true) == Some(architecture.as_str()) {
            return format!(
                "the stage is for {of}, whose programs this machine ({host}) runs only where its kernel is built for them \
                 and not kept from them: look for ia32_emulation=0 in {STARTED_WITH}, or start it with ia32_emulation=1"
            );
        }
        format!(
            "the stage is for {of}, and this machine ({host}) has no emulator for its programs: install one that \
             the kernel knows by binfmt_misc (Debian, Ubuntu: apt-get install qemu-user-static binfmt-support; Fedora: dnf \
             install qemu-user-static), or have the stage run here (FROM --platform=$BUILDPLATFORM) and build for \
             $TARGETPLATFORM"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulators_are_known_by_what_they_take() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        // As qemu's packages register them.
        write(
            "qemu-aarch64",
            "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\noffset 0\nmagic \
             7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n",
        );
        write(
            "qemu-s390x",
            "enabled\ninterpreter /usr/bin/qemu-s390x-static\nflags: OCF\noffset 0\nmagic \
             7f454c4602020100000000000000000000020016\nmask ffffffffffffff00fffffffffffffffffffeffff\n",
        );
        write(
            "qemu-riscv64",
            "disabled\ninterpreter /usr/bin/qemu-riscv64-static\nflags: OCF\noffset 0\nmagic \
             7f454c460201010000000000000000000200f300\nmask ffffffffffffff00fffffffffffffffffeffffff\n",
        );
        write("jar", "enabled\ninterpreter /usr/bin/jexec\nflags: \nextension .jar\n");
        write("status", "enabled");
        let known: Vec<String> = known_in(folder.path(), false).iter().map(Platform::to_string).collect();
        let host = Platform::host().architecture;
        let others: Vec<&str> =
            ["linux/arm64", "linux/s390x"].into_iter().filter(|one| !one.ends_with(&host)).collect();
        assert_eq!(known, others);
        assert!(known_in(Path::new("/no/such/folder"), false).is_empty());
    }

    #[test]
    fn an_amd64_kernel_runs_386_by_itself_where_it_says_so() {
        assert_eq!((runs_itself("amd64", true), runs_itself("amd64", false)), (Some("386"), None));
        assert_eq!(runs_itself("arm64", true), None);
        if Platform::host().architecture == "amd64" {
            let none = Path::new("/no/such/folder");
            assert_eq!(
                known_in(none, true).iter().map(Platform::to_string).collect::<Vec<_>>(),
                ["linux/386"]
            );
            // The kernel has said that it does not, whatever it was built for.
            let advice = advice_in(none, &"linux/386".parse().unwrap()).unwrap();
            assert!(advice.contains("the stage is for linux/386,") && advice.contains("ia32_emulation=1"));
        }
    }

    #[test]
    fn a_kernel_may_be_kept_from_386() {
        for words in ["ia32_emulation=0", "quiet ia32_emulation=off", "ia32_emulation=1 ia32_emulation=n\n"] {
            assert!(is_kept_from_386(words), "{words}");
        }
        for words in
            ["", "quiet", "ia32_emulation=on", "ia32_emulation=0 ia32_emulation=y", "x.ia32_emulation=0"]
        {
            assert!(!is_kept_from_386(words), "{words}");
        }
    }

    #[test]
    fn what_to_install_is_said_for_other_machines_alone() {
        let host = Platform::host();
        assert_eq!(advice(&host), None);
        assert_eq!(advice(&Platform { os: String::new(), ..host.clone() }), None);
        assert_eq!(
            advice(&Platform { os: String::new(), architecture: String::new(), variant: String::new() }),
            None
        );
        assert!(
            advice(&"linux/no-such/v1".parse().unwrap())
                .unwrap()
                .contains("the stage is for linux/no-such/v1,")
        );
    }
}
