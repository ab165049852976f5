"""Where RUN runs, looked at from inside a container: docker's defaults and what changes them."""

from __future__ import annotations

import os
import resource
import shutil
from typing import TYPE_CHECKING

import pytest

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.errors import BuildStepError, StepFailedError
from layerstore.build.run.settings import HOST_NETWORK, INSECURE
from layerstore.errors import UnsupportedError
from layerstore.linux import mounts
from layerstore.runtime.cgroups import controllers, counts_swap
from layerstore.runtime.settings import Limits, RunOptions, Ulimit
from tests.support.build import box, builder, needs_runc  # noqa: F401
from tests.support.namespaces import private_mount_table

if TYPE_CHECKING:
    from tests.support.build import Builder

pytestmark = needs_runc

# ruff: noqa: F811 -- pytest fixtures are parameters of the same name


def said(box: Builder, command: str, **options: object) -> str:
    """Run one command in the base image and return what it wrote."""
    box.build(f"FROM box\nRUN {command}\n", no_cache=True, **options)
    return box.ui.text.decode()


def limited(**limits: object) -> RunOptions:
    return RunOptions(limits=Limits(**limits))  # type: ignore[arg-type]


GAINING = """\
FROM box
RUN cp /bin/busybox /bin/su && chmod 4755 /bin/su && echo root::0:0::/root:/bin/sh > /etc/passwd
USER 5:5
RUN /bin/su -c 'id -u'
"""
"""A set-user-id program that makes somebody root, who has no password here."""


class TestDockersDefaults:
    def test_capabilities(self, box: Builder) -> None:
        text = said(box, "grep Cap /proc/self/status")
        wanted = {"CapInh": "0" * 16, "CapAmb": "0" * 16}
        wanted |= dict.fromkeys(("CapPrm", "CapEff", "CapBnd"), "00000000a80425fb")
        assert dict(line.split(":\t") for line in text.splitlines()) == wanted

    def test_a_user_who_is_not_root_has_none(self, box: Builder) -> None:
        box.build(
            "FROM box\nUSER daemon\nRUN grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status; id -u\n"
        )
        text = box.ui.text.decode()
        assert "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n" in text
        assert "CapBnd:\t00000000a80425fb\n1\n" in text

    def test_system_calls_are_filtered_and_privileges_can_be_gained(self, box: Builder) -> None:
        text = said(box, "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status")
        assert text == "NoNewPrivs:\t0\nSeccomp:\t2\n"
        # Refused by the filter alone: root may do the one, and anybody the other.
        assert "[refused]" in said(box, "busybox unshare -U true || echo '[refused]'")
        assert "[refused]" in said(box, "busybox mount -t tmpfs x /tmp || echo '[refused]'")

    def test_personalities(self, box: Builder) -> None:
        """32-bit kernels are asked for by builds of 32-bit programs."""
        assert said(box, "busybox linux32 busybox uname -m").strip() in {"i686", "armv8l", "armv7l"}

    def test_set_user_id_programs_work(self, box: Builder) -> None:
        """As sudo does."""
        box.build(GAINING)
        assert box.ui.text == b"0\n"

    def test_masked_paths(self, box: Builder) -> None:
        text = said(
            box,
            "for path in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do "
            "test -e $path && head -c 1 $path | wc -c; done; "
            "for path in /proc/acpi /proc/scsi /sys/firmware; do "
            "test -e $path && ls $path | wc -l; done; true",
        )
        assert set(text.split()) <= {"0"}
        assert len(text.split()) >= 3

    def test_read_only_paths(self, box: Builder) -> None:
        text = said(
            box,
            "for path in sys/vm/swappiness irq/default_smp_affinity; do "
            "echo 0 2>&1 >> /proc/$path; done 2>&1; touch /sys/x 2>&1; "
            "grep -c ' /sys sysfs ro' /proc/mounts",
        )
        assert text.count("Read-only file system") == 3
        assert text.endswith("\n1\n")

    def test_devices(self, box: Builder) -> None:
        text = said(
            box,
            "cd /dev; ls; stat -c '%n %t:%T' null zero full random urandom tty; "
            "echo x > /dev/null; head -c 2 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; "
            "echo x 2>&1 > /dev/full || echo '[full]'; "
            "stat -c '%A %n' shm mqueue; grep -E ' /dev(/[a-z]+)? ' /proc/mounts",
        )
        names = text.split("null 1:3")[0].split()
        names = [name for name in names if name != "core"]  # only where there is a /proc/kcore
        assert sorted(names) == [
            "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr",
            "stdin", "stdout", "tty", "urandom", "zero",
        ]  # fmt: skip
        for device in ("1:3", "1:5", "1:7", "1:8", "1:9", "5:0"):
            assert f" {device}\n" in text
        assert "\n2\n3\n[full]\n" in text.replace("sh: write error: No space left on device\n", "")
        assert "drwxrwxrwt shm" in text
        assert "shm /dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=65536k" in text
        assert "gid=5,mode=620,ptmxmode=666" in text

    def test_devices_of_the_host_are_closed(self, box: Builder) -> None:
        """A node can be made, as in docker, and opens nothing."""
        text = said(box, "busybox mknod /fuse c 10 229 && cat /fuse 2>&1; rm /fuse")
        assert "Operation not permitted" in text

    def test_namespaces(self, box: Builder) -> None:
        kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
        text = said(box, f"for kind in {' '.join(kinds)}; do readlink /proc/self/ns/$kind; done")
        inside = text.split()
        outside = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
        shared = {kind for kind, a, b in zip(kinds, inside, outside, strict=True) if a == b}
        assert shared == {"cgroup", "net", "user"}

    def test_limits_and_name(self, box: Builder) -> None:
        text = said(box, "ulimit -n; cat /proc/self/oom_score_adj; hostname; pwd; umask")
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        with open("/proc/self/oom_score_adj") as file:
            mine = file.read().strip()
        assert text.split() == [str(soft), mine, "layerstore", "/", "0022"]


def test_no_new_privileges(box: Builder) -> None:
    options = RunOptions(no_new_privileges=True)
    assert said(box, "grep NoNewPrivs /proc/self/status", run=options) == "NoNewPrivs:\t1\n"
    with pytest.raises(StepFailedError, match="exit status 1"):
        box.build(GAINING, run=options)
    assert b"must be suid" in box.ui.text


def test_unconfined(box: Builder) -> None:
    text = said(box, "grep Seccomp: /proc/self/status", run=RunOptions(confined=False))
    assert text == "Seccomp:\t0\n"


class TestInsecure:
    DOCKERFILE = (
        "FROM box\nRUN --security=insecure grep CapEff /proc/self/status; "
        "grep Seccomp: /proc/self/status; busybox mount -t tmpfs x /tmp && echo '[mounted]'; "
        "test -w /proc/sys/vm/swappiness && echo '[writable]'; "
        "busybox mknod /fuse c 10 229 && true < /fuse && echo '[opened]'; "
        "rm /fuse\n"
    )

    def test_with_leave(self, box: Builder) -> None:
        box.build(self.DOCKERFILE, allow=frozenset({INSECURE}))
        text = box.ui.text.decode()
        effective = int(text.split()[1], 16)
        assert effective >> 21 & 1, "CAP_SYS_ADMIN"
        assert "Seccomp:\t0" in text
        for word in ("[mounted]", "[writable]", "[opened]"):
            assert word in text

    def test_without(self, box: Builder) -> None:
        with pytest.raises(
            SpecError, match=r"Dockerfile:2:5: RUN --security=insecure is not"
        ) as no:
            box.build(self.DOCKERFILE)
        assert no.value.hint is not None
        assert "--allow security.insecure" in no.value.hint

    def test_is_another_step(self, box: Builder) -> None:
        allow = frozenset({INSECURE})
        box.build("FROM box\nRUN true\n", allow=allow)
        box.build("FROM box\nRUN --security=insecure true\n", allow=allow)
        assert box.ui.cached == []


def test_network_modes(box: Builder) -> None:
    alone = "ls /sys/class/net"
    everything = sorted(os.listdir("/sys/class/net"))
    assert sorted(said(box, alone).split()) == everything
    assert said(box, alone, network=False).split() == ["lo"]
    assert said(box, f"--network=none {alone}").split() == ["lo"]
    with pytest.raises(SpecError, match="RUN --network=host is not allowed") as no:
        said(box, f"--network=host {alone}", network=False)
    assert "--allow network.host" in str(no.value.hint)
    allowed = {"network": False, "allow": frozenset({HOST_NETWORK})}
    assert sorted(said(box, f"--network=host {alone}", **allowed).split()) == everything


def test_devices_that_a_step_needs_are_refused_with_their_place(box: Builder) -> None:
    with pytest.raises(SpecError, match=r"Dockerfile:2:5: .*requires the device.*Device Interface"):
        said(box, "--device=vendor.com/gpu=all,required true")
    assert said(box, "--device=vendor.com/gpu=all echo went on") == "went on\n"


def test_extra_hosts_are_part_of_a_step(box: Builder) -> None:
    dockerfile = "FROM box\nRUN grep example /etc/hosts\n"
    hosts = (("db.example", "192.0.2.7"), ("six.example", "2001:db8::1"))
    result = box.build(dockerfile, extra_hosts=hosts)
    assert box.ui.text == b"192.0.2.7 db.example\n2001:db8::1 six.example\n"
    assert result.image.layers == box.store.resolve("box").layers
    box.build(dockerfile, extra_hosts=hosts)
    assert box.ui.ran == []
    box.build(dockerfile, extra_hosts=hosts[:1])
    assert box.ui.text == b"192.0.2.7 db.example\n"


def test_limits_are_no_part_of_a_step(box: Builder) -> None:
    box.build("FROM box\nRUN echo x > /x\n")
    box.build("FROM box\nRUN echo x > /x\n", run=limited(ulimits=(Ulimit("nofile", 99, 99),)))
    assert box.ui.ran == []


def test_ulimits_and_shared_memory(box: Builder) -> None:
    limits = limited(ulimits=(Ulimit("nofile", 99, 100), Ulimit("core", 0, -1)), shm_size=5 << 20)
    text = said(
        box, "ulimit -n; ulimit -Hn; ulimit -c; ulimit -Hc; grep /dev/shm /proc/mounts", run=limits
    )
    assert text.split()[:4] == ["99", "100", "0", "unlimited"]
    assert "size=5120k" in text


needs_memory = pytest.mark.skipif(
    "memory" not in controllers(), reason="the memory controller is not there"
)
needs_cpu = pytest.mark.skipif(
    not {"cpu", "cpuset"} <= controllers(), reason="the cpu controllers are not there"
)


@needs_memory
def test_memory_is_limited(box: Builder) -> None:
    swap = 16 << 20 if counts_swap() else 0
    options = limited(memory=16 << 20, memory_swap=swap)
    assert said(box, "dd if=/dev/zero of=/dev/null bs=4M count=1 2>/dev/null", run=options) == ""
    with pytest.raises(StepFailedError, match="exit status 137"):
        said(box, "dd if=/dev/zero of=/dev/null bs=64M count=1", run=options)


@needs_cpu
def test_processors_are_limited(box: Builder) -> None:
    text = said(box, "grep Cpus_allowed_list /proc/self/status", run=limited(cpuset_cpus="0"))
    assert text == "Cpus_allowed_list:\t0\n"
    with pytest.raises(StepFailedError):
        said(box, "true", run=limited(cpuset_cpus="9999"))


def test_groups_are_made_below_the_parent(box: Builder) -> None:
    parent = f"layerstore-test-{os.getpid()}"
    try:
        text = said(box, "cat /proc/self/cgroup", run=limited(cgroup_parent=parent))
        assert f":/{parent}/layerstore-" in text
        left = [
            name
            for folder, folders, _ in os.walk("/sys/fs/cgroup")
            for name in folders
            if os.path.basename(folder) == parent
        ]
        assert left == []
    finally:
        for folder, folders, _ in os.walk("/sys/fs/cgroup"):
            if parent in folders:
                os.rmdir(f"{folder}/{parent}")


def test_what_cannot_be_enforced_is_refused(box: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerstore.runtime.limits.controllers", frozenset)
    with pytest.raises(UnsupportedError, match="--memory cannot be enforced here"):
        said(box, "true", run=limited(memory=64 << 20))


def test_the_runtime_can_be_chosen(box: Builder) -> None:
    with pytest.raises(BuildStepError, match="there is no OCI runtime 'no-such'"):
        said(box, "true", run=RunOptions(runtime="no-such"))


@pytest.mark.skipif(shutil.which("crun") is None, reason="crun is not installed")
def test_crun_as_well(box: Builder) -> None:
    with private_mount_table():
        # crun refuses hosts with control groups of both versions.
        if os.path.ismount("/sys/fs/cgroup/unified"):
            mounts.unmount("/sys/fs/cgroup/unified", lazy=True)
        limits = Limits(ulimits=(Ulimit("nofile", 99, 99),), shm_size=5 << 20)
        box.build(
            "FROM box\nRUN grep -E 'CapEff|Seccomp:' /proc/self/status; ulimit -n\n"
            "USER daemon\nRUN --network=none id -u; ls /sys/class/net\n",
            run=RunOptions(limits=limits, runtime="crun"),
        )
    text = box.ui.text.decode()
    assert text == "CapEff:\t00000000a80425fb\nSeccomp:\t2\n99\n1\nlo\n"


def test_a_runtime_that_does_not_work_is_passed_over(
    box: Builder, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    """Named like runc, in front of it on the path; the real one is called crun here."""
    real = shutil.which("runc")
    if real is None:
        pytest.skip("runc is not installed")
    (tmp_path / "runc").write_text("#!/bin/sh\necho broken >&2; exit 1\n")
    (tmp_path / "crun").write_text(f'#!/bin/sh\nexec {real} "$@"\n')
    for name in ("runc", "crun"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    box.build("FROM box\nRUN echo '[ran]'; exit 0\n")
    assert box.ui.text.endswith(b"[ran]\n")
    # A command that fails is not blamed on a runtime that works.
    with pytest.raises(StepFailedError, match="exit status 3"):
        box.build("FROM box\nRUN exit 3\n")
