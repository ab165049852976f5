"""What goes wrong for users, one case each, through the real command line.

Every case says the exit code of docs/reference/errors.md, a message and a remedy, shows
no traceback, and leaves a store that checks clean and does the same thing right when the
cause is gone. Cases that need a Debian mirror or another user live elsewhere.

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
from tests.support.build import add_base, needs_runc
from tests.support.cli import Cli, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EXPORTED = ["etc/motd", "bin/program"]
SECONDS = 60


def needs_root(function: Callable[..., None]) -> Callable[..., None]:
    root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
    return pytest.mark.root(root(function))


def needs_fuse(function: Callable[..., None]) -> Callable[..., None]:
    fuse = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no /dev/fuse")
    return needs_root(pytest.mark.fuse(fuse(function)))


def runs(function: Callable[..., None]) -> Callable[..., None]:
    for mark in needs_runc:
        function = mark(function)
    return function


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "store")


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "rootfs", 300_000)


@pytest.fixture
def web(cli: Cli, rootfs: Path) -> Cli:
    """A store with the image web:1."""
    cli.ok("import", rootfs, "-t", "web:1")
    return cli


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "file").write_text("content\n")
    return folder


def make_tree(root: Path, size: int) -> Path:
    (root / "etc").mkdir(parents=True)
    (root / "bin").mkdir()
    (root / "etc" / "motd").write_text("hello\n")
    (root / "bin" / "program").write_bytes(os.urandom(size))
    return root


def assert_sound(cli: Cli, *names: str) -> None:
    """The store is whole, holds exactly these names, and leaves nothing of its own about."""
    assert cli.ok("check", "--read-data").out.startswith("ok, all bytes read")
    held = [name for image in cli.ok("images", "--json").json() for name in image["names"]]
    assert sorted(held) == sorted(names)
    cli.ok("gc")
    assert os.listdir(cli.store / "tmp") == []
    assert [name for name in os.listdir(cli.store / "locks") if name.startswith("lease-")] == []


def assert_told(err: str, message: str, hint: str) -> None:
    """One message, one hint, nothing else of ours."""
    assert "Traceback" not in err
    assert err.count("layerstore: error: ") == 1, err
    told = err[err.index("layerstore: error: ") :]
    assert message in told, err
    assert f"hint: {hint}" in told, err


def build(cli: Cli, context: Path, text: str, *options: str, **env: str) -> Result:
    (context / "Dockerfile").write_text(text)
    return cli("build", "-t", "new:1", *options, context, env=env)


# -- Dockerfiles


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        ("FROM absent:1\n", "1:1", "there is no image 'absent:1'", "get it first: layerstore"),
        ("FROM scratch\nFETCH a b\n", "2:1", "unknown instruction FETCH", ""),
        ("FROM scratch\nCOPPY a b\n", "2:1", "unknown instruction COPPY", "did you mean COPY?"),
        ("FROM scratch\nCOPY --chwon=1 file /\n", "2:6", "--chwon", "--chown"),
        ("FROM scratch\nCOPY file\n", "2:6", "COPY needs at least one source", "COPY SOURCE"),
        ("FROM scratch\nENV\n", "2:4", "ENV needs at least one pair", "ENV NAME=VALUE"),
        ("FROM scratch\nENV A\n", "2:5", "ENV A has no value", "ENV A=VALUE"),
        ("FROM scratch\nEXPOSE banana\n", "2:8", "'banana' is not a port", "write a port"),
        ("FROM scratch\nSHELL /bin/sh -c\n", "2:7", "SHELL takes a JSON array", "SHELL ["),
        ('FROM scratch\nSHELL ["/bin/sh", -c]\n', "2:7", "SHELL takes a JSON array", "SHELL ["),
        ("COPY file /\n", "1:1", "FROM", ""),
        ("FROM scratch AS a\nCOPY --from=b x /\nFROM scratch AS b\nFROM a\n", "2:", "'b'", ""),
        ("FROM scratch\nRUN <<EOF\ntrue\n", "2:1", "the heredoc 'EOF' does not end", "end it"),
        ("FROM scratch\nCOPY ${X file /\n", "2:6", "missing '}'", ""),
        ("FROM scratch\nADD https://example.test/x /\n", "2:1", "remote source", "fetch it"),
        ("FROM scratch\nRUN --mount=type=ssh true\n", "2:", "ssh", ""),
        ("", "1:1", "the file has no instructions", "begin with FROM"),
    ],
)  # fmt: skip
def test_bad_dockerfiles_say_where(
    cli: Cli, context: Path, text: str, place: str, message: str, hint: str
) -> None:
    result = build(cli, context, text)
    assert result.code == 2, result
    assert "Traceback" not in result.err
    assert result.err.startswith(f"layerstore: error: {context}/Dockerfile:{place}"), result.err
    assert message in result.err
    if hint:
        assert f"hint: {hint}" in result.err or hint in result.err.partition("hint: ")[2]
    assert result.out == ""
    assert_sound(cli)


def test_the_line_at_fault_is_shown(cli: Cli, context: Path) -> None:
    err = build(cli, context, "FROM scratch\nCOPY --chwon=1 file /\n").err
    assert "  COPY --chwon=1 file /" in err
    assert err.splitlines()[2].lstrip(" |").startswith("^")


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("COPY absent /", "absent does not exist in the build context"),
        ("COPY file /a /b/", "/a does not exist"),
        ("COPY hidden /", "hidden does not exist in the build context"),
        ("COPY ../file /", "file"),
    ],
)
def test_a_missing_file_is_named(cli: Cli, context: Path, instruction: str, message: str) -> None:
    (context / "hidden").touch()
    (context / ".dockerignore").write_text("hidden\n")
    text = f"FROM scratch\nCOPY .dockerignore /ignored\n{instruction}\n"
    result = build(cli, context, text)
    if instruction == "COPY ../file /":  # as docker: ".." ends at the context's root
        assert result.code == 0
        return
    assert result.code == 14
    assert f"{context}/Dockerfile:3:" in result.err
    assert_told(result.err, message, "see whether .dockerignore leaves it out")
    assert_sound(cli)


def test_a_file_missing_from_a_stage_is_named(cli: Cli, context: Path) -> None:
    text = "FROM scratch AS one\nCOPY file /f\nFROM scratch\nCOPY --from=one /absent /\n"
    result = build(cli, context, text)
    assert result.code == 14
    assert "/absent does not exist in the stage or image it is copied from" in result.err
    assert_sound(cli)


@runs
def test_a_failing_command_shows_its_output_and_status(cli: Cli, context: Path) -> None:
    with Store.open(cli.store, create=True) as store:
        add_base(store)
    result = build(cli, context, "FROM box\nRUN echo kept > /kept\nRUN echo oh no >&2; exit 42\n")
    assert result.code == 14
    assert "Traceback" not in result.err
    assert "exit status 42" in result.err
    assert "oh no" in result.err
    assert f"{context}/Dockerfile:3:1: " in result.err
    assert_sound(cli, "box:latest")
    fixed = build(cli, context, "FROM box\nRUN echo kept > /kept\nRUN echo fixed\n")
    assert fixed.code == 0
    assert "1 of 2 steps from the cache" in fixed.err


@runs
def test_a_command_that_does_not_exist_is_a_failed_step(cli: Cli, context: Path) -> None:
    with Store.open(cli.store, create=True) as store:
        add_base(store)
    result = build(cli, context, "FROM box\nRUN no-such-program\n")
    assert result.code == 14
    assert "exit status 127" in result.err
    assert "not found" in result.err
    assert_sound(cli, "box:latest")


# -- full disks


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Cli]:
    """A command line over a store on a tmpfs of 12 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    libc = ctypes.CDLL(None, use_errno=True)
    place = tmp_path / "disk"
    place.mkdir()
    if libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"size=12m") != 0:
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


# -- damage


def flip_content(cli: Cli) -> Path:
    """Flip one bit of the content of the image imported last; return its pack."""
    packs = sorted((cli.store / "packs").rglob("*.pack"), key=lambda path: path.stat().st_mtime_ns)
    data = bytearray(packs[-1].read_bytes())
    data[len(data) // 3] ^= 1
    packs[-1].write_bytes(data)
    return packs[-1]


def test_a_damaged_pack_harms_its_images_alone(web: Cli, tmp_path: Path) -> None:
    other = make_tree(tmp_path / "other", 250_000)
    bad = web.ok("import", other, "-t", "bad:1").out.strip()
    pack = flip_content(web)
    target = tmp_path / "out.tar"
    err = web.fails(10, "export", "bad:1", "-o", target)
    assert_told(err, f"pack {pack.stem[:16]}", "run 'layerstore check --read-data'")
    assert not target.exists()
    err = web.fails(10, "save", "bad:1", "-o", tmp_path / "layout")
    assert f"pack {pack.stem[:16]}" in err

    web.ok("check")  # structure only: the bytes were not read
    checked = web("check", "--read-data")
    assert checked.code == 10
    assert "Traceback" not in checked.err
    assert pack.stem in checked.out
    assert f"harms image {bad[7:19]}" in checked.out
    assert "web" not in checked.out
    web.ok("export", "web:1", "-o", target)
    with tarfile.open(target) as archive:
        assert set(EXPORTED) <= set(archive.getnames())

    web("check", "--repair")
    web.ok("import", other, "-t", "bad:1")
    assert_sound(web, "bad:1", "web:1")
    web.ok("export", "bad:1", "-o", target)


@needs_fuse
def test_a_damaged_pack_seen_through_a_view(web: Cli, tmp_path: Path) -> None:
    web.ok("import", make_tree(tmp_path / "other", 250_000), "-t", "bad:1")
    flip_content(web)
    views = [tmp_path / "view-bad", tmp_path / "view-good"]
    try:
        for view, image in zip(views, ("bad:1", "web:1"), strict=True):
            view.mkdir()
            web.ok("mount", image, view)
        with pytest.raises(OSError, match="Input/output error"):
            (views[0] / "bin" / "program").read_bytes()
        good = (views[1] / "bin" / "program").read_bytes()
        assert good == (tmp_path / "rootfs" / "bin" / "program").read_bytes()
    finally:
        web("umount", *views)


@needs_fuse
def test_an_image_whose_tree_is_damaged_is_not_mounted(web: Cli, tmp_path: Path) -> None:
    for pack in (web.store / "packs").rglob("*.pack"):
        data = bytearray(pack.read_bytes())
        for position in range(64, len(data), 50):
            data[position] ^= 0xFF
        pack.write_bytes(data)
    view = tmp_path / "view"
    view.mkdir()
    result = web("mount", "web:1", view)
    assert result.code in {10, 15}, result
    assert "Traceback" not in result.err
    assert "check --read-data" in result.err
    assert not os.path.ismount(view)
    assert web.ok("mounts", "-q").out == ""
    assert [name for name in os.listdir(web.store / "views") if name.endswith(".json")] == []


def test_a_store_of_a_newer_format(web: Cli, tmp_path: Path) -> None:
    config = web.store / "config.toml"
    before = config.read_text()
    config.write_text(before.replace("format = 1", "format = 2"))
    for command in (
        ["images"], ["mounts"], ["mount", "web:1", str(tmp_path)], ["check"], ["gc"], ["df"],
        ["inspect", "web:1"], ["import", str(tmp_path / "rootfs")], ["umount", "--all"],
        ["check", "--rebuild-index"], ["export", "web:1"],
    ):  # fmt: skip
        err = web.fails(10, *command)
        assert_told(err, "the store has format 2, this layerstore knows up to 1", "use the newer")
    config.write_text(before)
    assert_sound(web, "web:1")


@pytest.mark.parametrize("how", ["missing", "empty", "garbage", "torn"])
def test_a_catalog_that_is_gone_is_made_again(web: Cli, tmp_path: Path, how: str) -> None:
    catalog = web.store / "catalog.sqlite"
    size = catalog.stat().st_size
    for path in web.store.glob("catalog.sqlite*"):
        path.unlink()
    if how != "missing":
        content = {"empty": b"", "garbage": os.urandom(size), "torn": b"SQLite format 3\0" * 9}
        catalog.write_bytes(content[how])
    (tmp_path / "view").mkdir()
    for command in (
        ["images"], ["inspect", "web:1"], ["check"], ["gc"], ["rm", "web:1"],
        ["mount", "web:1", str(tmp_path / "view")], ["import", str(tmp_path / "rootfs")],
    ):  # fmt: skip
        err = web.fails(10, *command)
        assert_told(err, "catalog", "nothing is lost: run 'layerstore check --rebuild-index'")
    rebuilt = web.ok("check", "--rebuild-index").out
    assert rebuilt.startswith("rebuilt the index: ")
    assert "1 images, 1 names" in rebuilt
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


def test_without_a_runtime(cli: Cli, context: Path, tmp_path: Path) -> None:
    with Store.open(cli.store, create=True) as store:
        add_base(store)
    text = "FROM box\nCOPY file /\nRUN true\n"
    result = build(cli, context, text, PATH=str(tmp_path))
    assert result.code == 15
    assert_told(result.err, "neither runc nor crun works here", "apt-get install runc")
    assert_sound(cli, "box:latest")


HIDE_DEVICE = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3"
HIDE_LIBRARY = "for f in $(find /lib /usr/lib -name 'libfuse.so.2*'); do mount --bind {} $f; done"


@needs_fuse
@pytest.mark.parametrize(
    ("hide", "message", "hint"),
    [
        (HIDE_DEVICE, "there is no /dev/fuse on this host", "load the kernel module: modprobe"),
        (HIDE_LIBRARY, "libfuse 2 cannot be loaded", "install FUSE: apt-get install libfuse2"),
    ],
    ids=["device", "library"],
)
def test_without_fuse(web: Cli, tmp_path: Path, hide: str, message: str, hint: str) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("hiding parts of the host takes unshare")
    (tmp_path / "empty").touch()
    view = tmp_path / "view"
    view.mkdir()
    script = f'{hide.format(tmp_path / "empty")} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *web.command("mount", "web:1", view)],
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


# -- images that are not there


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "absent:1"],
        ["history", "absent:1"],
        ["tag", "absent:1", "b:1"],
        ["rm", "absent:1"],
        ["export", "absent:1", "-o", "{tmp}/out"],
        ["save", "absent:1", "-o", "{tmp}/out"],
        ["save", "web:1", "absent:1", "-o", "{tmp}/out"],
        ["mount", "absent:1", "{tmp}"],
        ["mount", "--rw", "absent:1", "{tmp}"],
        ["savings", "absent:1"],
        ["inspect", "sha256:" + "0" * 64],
        ["inspect", "000000000000"],
    ],
    ids=" ".join,
)
def test_an_image_that_is_not_there(web: Cli, tmp_path: Path, command: list[str]) -> None:
    words = [word.format(tmp=tmp_path) for word in command]
    err = web.fails(3, *words)
    assert_told(err, "no image", "'layerstore images' lists what there is")
    assert not (tmp_path / "out").exists()
    assert_sound(web, "web:1")


@pytest.mark.parametrize(
    "command",
    [
        ["images"], ["inspect", "a"], ["history", "a"], ["tag", "a", "b"], ["rm", "a"], ["gc"],
        ["check"], ["check", "--rebuild-index"], ["df"], ["savings"], ["export", "a"],
        ["save", "a", "-o", "x"], ["mount", "a", "."], ["mounts"], ["umount", "--all"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_store_that_is_not_there(cli: Cli, command: list[str]) -> None:
    err = cli.fails(3, *command)
    assert_told(err, f"no store at {cli.store}", "")
    assert not cli.store.exists()


@pytest.mark.parametrize("command", [["import", "{tmp}/absent"], ["import", "{tmp}/unreadable"]])
def test_a_source_that_is_not_there(cli: Cli, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "unreadable").write_text("not a tar\n" * 100)
    result = cli(*[word.format(tmp=tmp_path) for word in command])
    assert result.code in {3, 10}
    assert "Traceback" not in result.err
    if cli.store.exists():
        assert_sound(cli)


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
            assert_told(err, "Read-only file system", "run as the owner of the store")
        result = build(web, context, "FROM web:1\nCOPY file /\n")
        assert result.code == 12
        assert_told(result.err, "Read-only file system", "run as the owner of the store")
        assert "web" in web.ok("images").out
        web.ok("inspect", "web:1")
        web.ok("export", "web:1", "-o", tmp_path / "out.tar")
        web.ok("check", "--read-data")
    finally:
        while libc.umount2(place, 0) == 0:
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
        env=cli.environment(),
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
