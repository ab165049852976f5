"""What package managers do, inside a writable view of a distribution-like tree."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
from typing import TYPE_CHECKING

import pytest

from fuse_mount import mounts
from tests.support.views import image_of, undo_all_mounts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting on the host needs root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no /dev/fuse"),
]


@pytest.fixture
def view(tmp_path: Path) -> Iterator[Path]:
    tree = tmp_path / "tree"
    for directory in ("usr/bin", "var/lib/dpkg/info", "etc", "usr/share/doc/a"):
        (tree / directory).mkdir(parents=True)
    (tree / "usr/bin/tool").write_text("#!/bin/sh\necho old\n")
    (tree / "usr/bin/tool").chmod(0o755)
    os.link(tree / "usr/bin/tool", tree / "usr/bin/tool2")
    (tree / "var/lib/dpkg/status").write_text("Package: a\n" * 1000)
    (tree / "etc/conf").write_text("old\n")
    (tree / "bin").symlink_to("usr/bin")
    image = image_of(tmp_path / "store", tree)
    target = tmp_path / "view"
    target.mkdir()
    mounts.mount(str(tmp_path / "store"), image, str(target), rw=True)
    yield target
    undo_all_mounts(tmp_path / "store")


def test_replacing_a_program_the_way_dpkg_does(view: Path) -> None:
    tool = view / "usr/bin/tool"
    new = view / "usr/bin/tool.dpkg-new"
    new.write_text("#!/bin/sh\necho new\n")
    new.chmod(0o755)
    os.link(tool, view / "usr/bin/tool.dpkg-tmp")
    new.rename(tool)
    (view / "usr/bin/tool.dpkg-tmp").unlink()
    assert subprocess.run([tool], capture_output=True, check=True).stdout == b"new\n"
    assert (view / "usr/bin/tool2").read_text().endswith("old\n")


def test_rewriting_a_database_through_a_backup_link(view: Path) -> None:
    status = view / "var/lib/dpkg/status"
    old = status.read_text()
    new = view / "var/lib/dpkg/status-new"
    new.write_text(old + "Package: b\n")
    with open(new, "r+b") as file:
        os.fsync(file.fileno())
    os.link(status, view / "var/lib/dpkg/status-old")
    new.rename(status)
    directory = os.open(view / "var/lib/dpkg", os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    assert status.read_text().endswith("Package: b\n")
    assert (view / "var/lib/dpkg/status-old").read_text() == old


def test_appending_to_a_lower_file_copies_it_up_whole(view: Path) -> None:
    with open(view / "var/lib/dpkg/status", "a") as file:
        file.write("Package: c\n")
    assert (view / "var/lib/dpkg/status").read_text() == "Package: a\n" * 1000 + "Package: c\n"


def test_renaming_directories(view: Path) -> None:
    fresh = view / "usr/share/doc/fresh"
    fresh.mkdir()
    (fresh / "x").write_text("x")
    fresh.rename(view / "usr/share/doc/renamed")
    assert (view / "usr/share/doc/renamed/x").read_text() == "x"
    # A directory of the image says EXDEV, as under docker; mv and shutil copy then.
    with pytest.raises(OSError) as caught:
        (view / "usr/share/doc/a").rename(view / "usr/share/doc/b")
    assert caught.value.errno == errno.EXDEV
    shutil.move(view / "usr/share/doc/a", view / "usr/share/doc/b")
    assert (view / "usr/share/doc/b").is_dir()
    assert not (view / "usr/share/doc/a").exists()


def test_a_directory_replaced_by_a_link_and_back(view: Path) -> None:
    shutil.rmtree(view / "usr/share/doc")
    (view / "usr/share/doc").symlink_to("/nowhere")
    assert os.readlink(view / "usr/share/doc") == "/nowhere"
    (view / "usr/share/doc").unlink()
    (view / "usr/share/doc").mkdir()
    assert os.listdir(view / "usr/share/doc") == []


def test_sqlite_and_mmap_work(view: Path) -> None:
    connection = sqlite3.connect(view / "var/lib/db.sqlite")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t (a)")
    connection.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(1000)])
    connection.commit()
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (1000,)
    connection.close()


def test_programs_run_and_chroot_works(view: Path) -> None:
    done = subprocess.run([view / "usr/bin/tool"], capture_output=True, check=True)
    assert done.stdout == b"old\n"
    assert subprocess.run(["/bin/sh", "-c", f"cd {view}/bin && ls"], check=True).returncode == 0


def test_locks_and_times(view: Path) -> None:
    import fcntl

    with open(view / "etc/conf", "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.utime(view / "etc/conf", ns=(1, 123_456_789))
    assert os.stat(view / "etc/conf").st_mtime_ns == 123_456_789
    os.chown(view / "etc/conf", 12, 34)
    assert (os.stat(view / "etc/conf").st_uid, os.stat(view / "etc/conf").st_gid) == (12, 34)
