//! hull's built-in profile: what a container may call. In meaning it is Docker's default profile; a test
//! compares the two where Docker's is at hand.
//!
//! Everything that is not named here is denied with EPERM, and what is newer than all of it does not exist
//! (ENOSYS), so that programs fall back to what they did before.

use oci_spec::runtime::Capability;

use super::Architecture;
use super::rules::{Action, Comparison, Condition, Rule};

/// Calls that any container may make.
const ALWAYS: [(&str, &str); 16] = [
    (
        "files and folders",
        "access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat \
         faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat \
         fcntl fcntl64 fdatasync flock fstat fstat64 fstatat64 fsync ftruncate ftruncate64 futimesat getcwd \
         getdents getdents64 ioctl lchown lchown32 link linkat lseek _llseek lstat lstat64 mkdir mkdirat mknod \
         mknodat name_to_handle_at newfstatat open openat openat2 read readahead readlink readlinkat readv \
         pread64 preadv preadv2 pwrite64 pwritev pwritev2 write writev rename renameat renameat2 rmdir sendfile \
         sendfile64 splice stat stat64 statx symlink symlinkat sync sync_file_range syncfs tee truncate \
         truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes vmsplice pipe pipe2",
    ),
    ("file systems and mounts, read", "fstatfs fstatfs64 listmount statfs statfs64 statmount"),
    (
        "extended attributes",
        "fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat \
         llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat",
    ),
    ("watching files", "fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch"),
    (
        "waiting for descriptors",
        "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old \
         eventfd eventfd2 _newselect poll ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4 \
         timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64",
    ),
    (
        "asynchronous files",
        "io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit",
    ),
    (
        "memory",
        "brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 \
         mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free \
         pkey_mprotect remap_file_pages",
    ),
    (
        "processes and threads",
        "execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait futex_waitv \
         futex_wake get_robust_list get_thread_area getcpu getpgid getpgrp getpid getppid getsid gettid kill \
         pause pidfd_open pidfd_send_signal prctl process_mrelease restart_syscall rseq sched_yield \
         set_robust_list set_thread_area set_tid_address setpgid setsid tgkill tkill uretprobe vfork wait4 \
         waitid waitpid process_vm_readv process_vm_writev ptrace",
    ),
    (
        "scheduling and limits",
        "getpriority getrlimit getrusage ioprio_get ioprio_set prlimit64 sched_get_priority_max \
         sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler \
         sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam \
         sched_setscheduler setpriority setrlimit ugetrlimit",
    ),
    (
        "signals",
        "rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
         rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn",
    ),
    (
        "users and capabilities",
        "capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid \
         getresgid32 getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid \
         setgid32 setgroups setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 \
         setreuid setreuid32 setuid setuid32",
    ),
    (
        "sockets",
        "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg \
         recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair",
    ),
    (
        "System V and POSIX communication",
        "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
         mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop \
         semtimedop_time64 shmat shmctl shmdt shmget",
    ),
    (
        "time",
        "adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
         clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time \
         timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 \
         times",
    ),
    ("restricting oneself", "landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp"),
    ("the machine", "getrandom riscv_hwprobe sysinfo uname"),
];

/// Calls that come with a capability in the bounding set.
const WITH: [(Capability, &str); 14] = [
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module finit_module init_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    (Capability::SysRawio, "ioperm iopl"),
    (Capability::SysTime, "clock_settime clock_settime64 settimeofday stime"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// Calls that only some architectures have.
const ON: [(&[Architecture], &str); 2] = [
    (&[Architecture::X86_64, Architecture::X86], "arch_prctl modify_ldt"),
    (
        &[Architecture::Arm, Architecture::Aarch64],
        "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    ),
];

/// Address families of virtual machines' sockets (AF_VSOCK reaches the hypervisor) and of what else lies
/// around it: `socket` may make everything below AF_ALG, 39 (AF_NFC), and above AF_VSOCK.
const SOCKETS: [Comparison; 3] = [Comparison::Less(38), Comparison::Equal(39), Comparison::Greater(40)];

/// Linux, Linux 32 bit, both with UNAME26, and the question what it is.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The namespaces of `clone`'s flags: without CAP_SYS_ADMIN none of them may be asked for.
const NAMESPACES: u64 = 0x7e02_0000;

/// The rules for an architecture. The first that fits a call decides.
pub(super) fn rules(architecture: Architecture, bounding: &[Capability]) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut allow = |names: &'static str| {
        for name in names.split_whitespace() {
            rules.push(Rule { name: name.into(), action: Action::Allow, conditions: Vec::new() });
        }
    };
    for (_, names) in ALWAYS {
        allow(names);
    }
    for (capability, names) in WITH {
        if bounding.contains(&capability) {
            allow(names);
        }
    }
    for (architectures, names) in ON {
        if architectures.contains(&architecture) {
            allow(names);
        }
    }
    let mut on_argument = |name: &str, comparison: Comparison| {
        let conditions = vec![Condition { argument: 0, comparison }];
        rules.push(Rule { name: name.into(), action: Action::Allow, conditions });
    };
    for comparison in SOCKETS {
        on_argument("socket", comparison);
    }
    for personality in PERSONALITIES {
        on_argument("personality", Comparison::Equal(personality));
    }
    if !bounding.contains(&Capability::SysAdmin) {
        on_argument("clone", Comparison::Masked { mask: NAMESPACES, value: 0 });
        // A filter cannot see behind clone3's pointer: programs are told to use clone.
        let action = Action::Errno(libc::ENOSYS as u16);
        rules.push(Rule { name: "clone3".into(), action, conditions: Vec::new() });
    }
    rules
}
