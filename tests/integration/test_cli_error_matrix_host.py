# ruff: noqa: F811 -- pytest fixtures are parameters of the same name
"""What a host does to commands: disks that fill, tools that lack, mount points, interrupts.

The same oracle as in test_cli_error_matrix.py.

Capabilities: root (tmpfs and mount namespaces), fuse (views), runc (RUN steps).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tarfile
import time
from typing import TYPE_CHECKING

import pytest

from layerstore.store.store import Store
from tests.support.build import add_base
from tests.support.cli import Cli
from tests.support.error_matrix import (  # noqa: F401 -- fixtures
    assert_sound,
    assert_told,
    build,
    cli,
    context,
    make_tree,
    needs_fuse,
    needs_root,
    rootfs,
    runs,
    web,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 60


# -- full disks


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Cli]:
    """A command line over a store on a tmpfs of 16 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    libc = ctypes.CDLL(None, use_errno=True)
    place = tmp_path / "disk"
    place.mkdir()
    if libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"size=16m") != 0:
        pytest.skip(f"cannot mount a tmpfs: {os.strerror(ctypes.get_errno())}")
    try:
        yield Cli(place / "store")
    finally:
        libc.umount2(os.fsencode(place), 2)


@contextlib.contextmanager
def filled(place: Path, leave: int) -> Iterator[None]:
    """Fill a file system but for ``leave`` bytes while the block runs."""
    ballast = place / "ballast"
    status = os.statvfs(place)
    with ballast.open("wb") as file, contextlib.suppress(OSError):
        file.write(b"x" * max(0, status.f_bavail * status.f_bsize - leave))
    try:
        yield
    finally:
        ballast.unlink()


@pytest.mark.root
@pytest.mark.parametrize("leave", [0, 100_000, 2_000_000])
@pytest.mark.parametrize("form", ["directory", "tar"])
def test_a_full_disk_during_import(small: Cli, tmp_path: Path, leave: int, form: str) -> None:
    small.ok("import", make_tree(tmp_path / "first", 200_000), "-t", "first:1")
    source = make_tree(tmp_path / "big", 5_000_000)
    if form == "tar":
        source = tmp_path / "big.tar"
        with tarfile.open(source, "w") as archive:
            archive.add(tmp_path / "big", ".")
    with filled(small.store.parent, leave):
        err = small.fails(12, "import", source, "-t", "big:1")
        assert_told(err, "o space left on device", "the store is unharmed; free a few MB")
        assert "first:1" in small.ok("images", "--json").out.replace(" ", "")
        small.ok("export", "first:1", "-o", "/dev/null")
    assert_sound(small, "first:1")
    small.ok("import", source, "-t", "big:1")
    assert_sound(small, "first:1", "big:1")


@pytest.mark.root
@pytest.mark.parametrize("leave", [0, 100_000, 2_000_000])
def test_a_full_disk_during_copy(small: Cli, context: Path, leave: int) -> None:
    assert build(small, context, "FROM scratch\nCOPY file /\n").code == 0
    (context / "big").write_bytes(os.urandom(5_000_000))
    text = "FROM scratch\nCOPY file /\nCOPY big /\n"
    with filled(small.store.parent, leave):
        result = build(small, context, text)
        assert result.code == 12, result
        assert_told(result.err, "o space left on device", "the store is unharmed; free a few MB")
    assert_sound(small, "new:1")
    assert build(small, context, text).code == 0
    assert_sound(small, "new:1")


@runs
def test_a_full_disk_during_run(small: Cli, context: Path) -> None:
    with Store.open(small.store, create=True) as store:
        add_base(store)
    text = "FROM box\nRUN echo first > /first\nRUN dd if=/dev/urandom of=/big bs=1000 count=5000\n"
    with filled(small.store.parent, 3_000_000):
        result = build(small, context, text)
        assert result.code in {12, 14}, result  # the command's own failure, or ours
        assert "o space left on device" in result.err
        assert "Traceback" not in result.err
    assert_sound(small, "box:latest")
    assert build(small, context, text).code == 0
    assert_sound(small, "box:latest", "new:1")


@needs_root
def test_a_full_disk_where_an_image_is_saved(web: Cli, small: Cli) -> None:
    place = small.store.parent
    with filled(place, 100_000):
        for target in ("layout", "archive.tar"):
            err = web.fails(12, "save", "web:1", "-o", place / target)
            assert_told(err, "No space left on device", "the store is unharmed; free space there")
        err = web.fails(12, "export", "web:1", "-o", place / "rootfs.tar")
        assert_told(err, "No space left on device", "free some space")
    assert {"archive.tar", "rootfs.tar"}.isdisjoint(os.listdir(place))
    assert [name for name in os.listdir(place) if name.startswith(".")] == []
    web.ok("save", "web:1", "-o", place / "layout")
    assert_sound(web, "web:1")


# -- mount points


@needs_fuse
def test_mount_points_that_will_not_do(web: Cli, tmp_path: Path) -> None:
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "absent")
    err = web.fails(2, "mount", "web:1", dangling)
    assert_told(err, "does not exist", "make it: mkdir -p")
    err = web.fails(2, "mount", "web:1", tmp_path / "rootfs" / "etc" / "motd" / "below")
    assert "cannot be used: Not a directory" in err
    assert web.ok("mounts", "-q").out == ""
    assert_sound(web, "web:1")


@needs_fuse
def test_no_view_comes_where_nobody_wants_one(web: Cli, tmp_path: Path) -> None:
    # An unset variable of a script, which os.path takes for the current directory.
    assert_told(web.fails(2, "mount", "web:1", ""), "the mount point is empty", "name an existing")
    assert "no view of this store" in web.fails(3, "umount", "")
    inside = web.store / "views"
    for target in ("/", tmp_path, web.store, inside, f"{tmp_path}/rootfs/../store/tmp"):
        err = web.fails(2, "mount", "web:1", target)
        assert_told(err, f"would hide the store {web.store}", "choose another directory")
    assert web.ok("mounts", "-q").out == ""
    assert_sound(web, "web:1")


# -- what a host lacks


def test_without_mmdebstrap(cli: Cli, tmp_path: Path) -> None:
    err = cli.fails(15, "bootstrap", "debian:bookworm", PATH=str(tmp_path))
    assert_told(err, "mmdebstrap", "apt-get install mmdebstrap")
    assert_sound(cli)


@needs_root
def test_without_a_runtime(cli: Cli, context: Path, tmp_path: Path) -> None:
    with Store.open(cli.store, create=True) as store:
        add_base(store)
    text = "FROM box\nCOPY file /\nRUN true\n"
    result = build(cli, context, text, PATH=str(tmp_path))
    assert result.code == 15
    assert_told(result.err, "neither runc nor crun is installed", "apt-get install runc")
    assert_sound(cli, "box:latest")


HIDE_DEVICE = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3"
HIDE_LIBRARY = "for f in $(find /lib /usr/lib -name 'libfuse.so.2*'); do mount --bind {} $f; done"


@needs_fuse
@pytest.mark.parametrize(
    ("hide", "backend", "message", "hint"),
    [
        (
            HIDE_DEVICE,
            "fuse",
            "there is no /dev/fuse on this host",
            "load the kernel module: modprobe",
        ),
        (
            HIDE_LIBRARY,
            "fusepy",
            "libfuse 2 cannot be loaded",
            "install FUSE: apt-get install libfuse2",
        ),
    ],
    ids=["device", "library"],
)
def test_without_fuse(
    web: Cli, tmp_path: Path, hide: str, backend: str, message: str, hint: str
) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("hiding parts of the host takes unshare")
    (tmp_path / "empty").touch()
    view = tmp_path / "view"
    view.mkdir()
    script = f'{hide.format(tmp_path / "empty")} && exec "$@"'
    command = web.command("mount", "--backend", backend, "web:1", view)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *command],
        env=web.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 15, done
    assert_told(done.stderr, message, hint)
    assert web.ok("mounts", "-q").out == ""
    web.ok("mount", "web:1", view)
    web.ok("umount", view)
    assert_sound(web, "web:1")


# -- a store that may not be written


@needs_root
def test_a_read_only_store(web: Cli, tmp_path: Path, context: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    place = os.fsencode(web.store)
    assert libc.mount(place, place, None, 4096, None) == 0  # MS_BIND
    try:
        assert libc.mount(b"none", place, None, 4096 | 32 | 1, None) == 0  # remount, read-only
        for command in (
            ["import", tmp_path / "rootfs", "-t", "b:1"],
            ["tag", "web:1", "b:1"],
            ["rm", "web:1"],
            ["gc"],
        ):
            err = web.fails(12, *command)
            assert_told(err, "Read-only file system", "its file system is mounted read-only")
        result = build(web, context, "FROM web:1\nCOPY file /\n")
        assert result.code == 12
        assert_told(result.err, "Read-only file system", "its file system is mounted read-only")
        assert "web" in web.ok("images").out
        web.ok("inspect", "web:1")
        web.ok("export", "web:1", "-o", tmp_path / "out.tar")
        web.ok("check", "--read-data")
    finally:
        while libc.umount2(place, 2) == 0:
            pass
    assert_sound(web, "web:1")


# -- interrupts and readers that leave


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_import_of_a_directory(web: Cli, tmp_path: Path, signum: int) -> None:
    make_tree(tmp_path / "big", 150_000_000)
    process = start(web, "import", tmp_path / "big", "-t", "big:1")
    wait_for_lease(web)
    process.send_signal(signum)
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out, err) == (128 + signum, "", "")
    assert_sound(web, "web:1")


@runs
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build(cli: Cli, context: Path, signum: int) -> None:
    with Store.open(cli.store, create=True) as store:
        add_base(store)
    (context / "Dockerfile").write_text(
        "FROM box\nRUN echo kept > /kept\nRUN echo running; sleep 300\n"
    )
    process = start(cli, "build", "-t", "new:1", context)
    lines = []
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)
        if line.rstrip().endswith(" running"):
            break
    process.send_signal(signum)
    _, rest = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signum, rest
    assert "Traceback" not in rest
    assert "internal error" not in rest
    assert_sound(cli, "box:latest")
    with open("/proc/self/mountinfo") as table:
        assert str(cli.store) not in table.read()
    again = build(cli, context, "FROM box\nRUN echo kept > /kept\nRUN true\n")
    assert "1 of 2 steps from the cache" in again.err


@pytest.mark.parametrize(
    "command",
    [["images"], ["mounts"], ["inspect", "web:1"], ["history", "web:1"], ["df"], ["check"],
     ["gc", "--dry-run"], ["export", "web:1"], ["--help"]],
    ids=" ".join,
)  # fmt: skip
def test_a_reader_that_never_was(web: Cli, command: list[str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            web.command(*command),
            env=web.environment(),
            stdout=write_end,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (141, "")
    assert_sound(web, "web:1")


def test_a_full_disk_behind_stdout(web: Cli) -> None:
    for command in (["images"], ["inspect", "web:1"], ["export", "web:1"]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                web.command(*command),
                env=web.environment(),
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert done.returncode == 12, done
        assert_told(done.stderr, "No space left on device", "")


def start(cli: Cli, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        cli.command(*arguments),
        env=cli.interrupted_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_lease(cli: Cli) -> None:
    """Wait until a command is at work in the store."""
    deadline = time.monotonic() + SECONDS
    while not any(name.startswith("lease-") for name in os.listdir(cli.store / "locks")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
