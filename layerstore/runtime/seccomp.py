"""Which system calls a container may make: docker's default profile as data. Pure.

The lists are those of docker's default profile (moby/profiles, seccomp/default.json,
2026), reduced to the architectures layerstore runs on. Rules that need a capability
are applied when the container has it.
"""

from __future__ import annotations

from layerstore.light_typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ALLOW = "SCMP_ACT_ALLOW"
_EPERM = 1
_ENOSYS = 38
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEW* flags: refused to a clone(2) without CAP_SYS_ADMIN."""

_FAMILIES = (*range(12), *range(13, 19), 21, 22, 24, *range(26, 34), 35, 36, 39, *range(41, 46))
"""Address families of sockets. AF_ALG (38) and AF_VSOCK (40) are among those that are not allowed:
through the one a kernel's bugs were reached, through the other a virtual machine's host is."""

_EVERY_BIT = (1 << 64) - 1

_ALLOWED = """
accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown
chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range
creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2
epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2
fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32
fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat
fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64
futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid getegid32
geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp
getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit
get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday getuid
getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
io_cancel ioctl io_destroy io_getevents io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set
io_setup io_submit ipc kill landlock_add_rule landlock_create_ruleset
landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr
listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack
membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap
mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall
munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause pidfd_open
pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl
pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev
pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg
remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall
riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity
sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler
sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send
sendfile sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32
setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid setsockopt
set_thread_area set_tid_address setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget
shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat
stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee
tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64
times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat
utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
process_vm_readv process_vm_writev ptrace
"""

_BY_MACHINE = {
    "x86_64": "arch_prctl modify_ldt",
    "aarch64": (
        "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"
    ),
    "ppc64le": "sync_file_range2 swapcontext",
    "riscv64": "riscv_flush_icache",
    "s390x": "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
}

_ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "riscv64": ("SCMP_ARCH_RISCV64",),
    "loongarch64": ("SCMP_ARCH_LOONGARCH64",),
    "s390x": ("SCMP_ARCH_S390X", "SCMP_ARCH_S390"),
}
"""docker lists x32 beside x86_64. Each architecture costs every start some 7 ms, and there are no
programs of this one: whoever calls by its numbers is killed (docs/decisions/0297-no-x32.md)."""

_BY_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": (
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie "
        "lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount "
        "open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog "
        "umount umount2 unshare"
    ),
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": (
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"
    ),
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}


class Condition(TypedDict, total=False):
    """A test of one argument, as the OCI runtime spec writes it."""

    index: int
    value: int
    valueTwo: int
    op: str


class Rule(TypedDict, total=False):
    """One entry of ``linux.seccomp.syscalls``."""

    names: list[str]
    action: str
    errnoRet: int
    args: list[Condition]


_PERSONALITIES: tuple[Condition, ...] = (
    {"index": 0, "value": _EVERY_BIT - 0x20008, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"},
    {"index": 0, "value": 0xFFFFFFFF, "op": "SCMP_CMP_EQ"},
)
"""PER_LINUX and PER_LINUX32, both with UNAME26 or without; and the question which one it is."""


def _aligned_runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield runs that one mask tells: each rule costs every start 0.2 ms of libseccomp's time."""
    left = set(numbers)
    while left:
        first, length = min(left), 1
        while first % (2 * length) == 0 and left.issuperset(range(first, first + 2 * length)):
            length *= 2
        left.difference_update(range(first, first + length))
        yield first, length


_FAMILY_RUNS = tuple(_aligned_runs(_FAMILIES))
"""Made once: the helper that waits for starts has it, and its forks need not."""


def profile(capabilities: frozenset[str], machine: str) -> dict[str, object]:
    """Return the ``linux.seccomp`` object of the OCI runtime spec.

    Args:
        capabilities: What the container's processes may have (``CAP_...``).
        machine: As uname(2) names it.
    """
    names = _ALLOWED.split() + _BY_MACHINE.get(machine, "").split()
    rules: list[Rule] = [
        {"names": names, "action": _ALLOW},
    ]
    rules += [
        {"names": ["socket"], "action": _ALLOW, "args": [_run(first, length)]}
        for first, length in _FAMILY_RUNS
    ]
    rules += [
        {"names": ["personality"], "action": _ALLOW, "args": [test]} for test in _PERSONALITIES
    ]
    for capability, allowed in _BY_CAPABILITY.items():
        if capability in capabilities:
            rules.append({"names": allowed.split(), "action": _ALLOW})
    if "CAP_SYS_ADMIN" not in capabilities:
        rules += _without_admin(machine)
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _EPERM,
        "architectures": list(_ARCHITECTURES.get(machine, ())),
        "syscalls": rules,
    }


def _without_admin(machine: str) -> list[Rule]:
    """Allow clone(2) without new namespaces; hide clone3(2), whose flags cannot be seen."""
    flags: Condition = {
        "index": 1 if machine == "s390x" else 0,
        "value": _NEW_NAMESPACES,
        "valueTwo": 0,
        "op": "SCMP_CMP_MASKED_EQ",
    }
    return [
        {"names": ["clone"], "action": _ALLOW, "args": [flags]},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
    ]


def _run(first: int, length: int) -> Condition:
    """Return the test for one of ``length`` numbers from ``first`` on, an aligned power of two."""
    mask = _EVERY_BIT - (length - 1)
    return {"index": 0, "value": mask, "valueTwo": first, "op": "SCMP_CMP_MASKED_EQ"}
