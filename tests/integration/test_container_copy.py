"""``cp`` between containers and the host: docker's names, and trees of somebody who means harm."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.build import needs_runc

if TYPE_CHECKING:
    from tests.support.running import Containers

pytestmark = needs_runc

_MAKE = (
    "mkdir -p /t/dir/sub; echo A > /t/dir/a; echo B > /t/dir/sub/b; ln -s a /t/dir/lnk; "
    "ln -s dir /t/dlnk; ln -s /etc/passwd /t/flnk; ln -s /nowhere/x /t/dangling; echo F > /t/f"
)


@pytest.fixture(params=["running", "stopped"])
def name(request: pytest.FixtureRequest, box: Containers) -> str:
    """Return a container with some files, which runs or has ended."""
    end = "sleep 1000" if request.param == "running" else "true"
    box.ok("run", "-d", "--name", "cc", "box", "sh", "-c", f"{_MAKE}; touch /ready; {end}")
    if request.param == "stopped":
        assert box.ok("wait", "cc").out == "0\n"
    else:
        from tests.support.running import wait_until

        wait_until(lambda: box("exec", "cc", "ls", "/ready").code == 0, "its files")
    return "cc"


def _tree(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


_DIR = ["a", "lnk", "sub", "sub/b"]


def test_out_names_are_dockers(box: Containers, name: str, tmp_path: Path) -> None:
    box.ok("cp", f"{name}:/t/f", str(tmp_path))
    box.ok("cp", f"{name}:t/f", str(tmp_path / "new"))
    assert (tmp_path / "f").read_text() == (tmp_path / "new").read_text() == "F\n"
    box.ok("cp", f"{name}:/t/dir", str(tmp_path / "d1"))
    assert _tree(tmp_path / "d1") == _DIR
    box.ok("cp", f"{name}:/t/dir", str(tmp_path / "d1"))  # now it is there
    assert _tree(tmp_path / "d1") == sorted([*_DIR, "dir", *(f"dir/{one}" for one in _DIR)])
    for _ in range(2):
        box.ok("cp", f"{name}:/t/dir/.", f"{tmp_path}/d2/")
        assert _tree(tmp_path / "d2") == _DIR
    assert os.readlink(tmp_path / "d2/lnk") == "a"


def test_links_are_copied_unless_followed_inside(
    box: Containers, name: str, tmp_path: Path
) -> None:
    box.ok("cp", f"{name}:/t/flnk", f"{tmp_path}/")
    assert os.readlink(tmp_path / "flnk") == "/etc/passwd"
    box.ok("cp", "-L", f"{name}:/t/flnk", str(tmp_path / "followed"))
    theirs = box.ok("cp", f"{name}:/etc/passwd", str(tmp_path / "passwd"))
    assert theirs.err == ""
    assert (tmp_path / "followed").read_bytes() == (tmp_path / "passwd").read_bytes()
    assert (tmp_path / "passwd").read_bytes() != Path("/etc/passwd").read_bytes()
    box.ok("cp", f"{name}:/t/dlnk/", str(tmp_path / "dir"))
    assert _tree(tmp_path / "dir") == _DIR


_REFUSED = [
    ("cc:/t/f/ {}", 2, "not a directory"),
    ("cc:/nosuch {}", 3, "there is no '/nosuch'"),
    ("nobody:/x {}", 3, "no container 'nobody'"),
    ("cc:/t/f {}/no/such", 3, "there is no directory"),
    ("cc:/t/f {}/nosuch/", 3, "no such directory"),
    ("cc:/t/dir {}/file", 2, "cannot copy a directory"),
    ("-L cc:/t/dangling {}", 3, "no directory /nowhere"),
    ("{}/file cc:/t/dangling", 3, "no directory /nowhere"),
    ("{}/nosuch cc:/t", 3, "nosuch"),
    ("{} cc:/t/f", 2, "cannot copy a directory"),
    ("- cc:/t/f", 2, "must be a directory"),
    ("cc:/t/f cc:/t/g", 2, "between containers is not supported"),
    ("a b", 2, "neither is in a container"),
    ("cc: {}", 2, "names no path"),
]


def test_what_cannot_be_copied(box: Containers, name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for words, code, said in _REFUSED:
        done = box("cp", *words.format(tmp_path).split())
        assert (done.code, done.out) == (code, ""), words
        assert said in done.err
        assert (tmp_path / "file").read_text() == "mine"
        assert _tree(tmp_path) == ["file"]


def test_in_keeps_what_files_are(box: Containers, name: str, tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    file = source / "a"
    file.write_text("mine\n")
    os.chown(file, 1234, 1235)
    file.chmod(0o4750)
    os.utime(file, (978307200, 978307200))
    os.setxattr(file, "user.note", b"kept")
    os.link(file, source / "b")
    os.mkfifo(source / "fifo")
    with (source / "holes").open("wb") as sparse:
        sparse.truncate(100 << 20)
        sparse.seek(50 << 20)
        sparse.write(b"x")
    box.ok("cp", str(source), f"{name}:/t/s")
    back = tmp_path / "back"
    box.ok("cp", "-a", f"{name}:/t/s", str(back))
    found = (back / "a").stat()
    assert (found.st_uid, found.st_gid, found.st_mtime) == (1234, 1235, 978307200)
    assert stat.S_IMODE(found.st_mode) == 0o4750
    assert os.getxattr(back / "a", "user.note") == b"kept"
    assert (back / "b").stat().st_ino == found.st_ino
    assert stat.S_ISFIFO((back / "fifo").stat().st_mode)
    holes = (back / "holes").stat()
    assert holes.st_size == 100 << 20
    assert holes.st_blocks * 512 < 1 << 20
    assert (back / "holes").read_bytes()[50 << 20 : (50 << 20) + 2] == b"x\0"


def test_what_a_container_has_gets_no_rights_here(
    box: Containers, name: str, tmp_path: Path
) -> None:
    source = tmp_path / "suid"
    source.write_text("#!/bin/sh\n")
    source.chmod(0o4755)
    os.chown(source, 1234, 1234)
    os.mknod(tmp_path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    box.ok("cp", str(tmp_path), f"{name}:/t/s")
    done = box.ok("cp", f"{name}:/t/s", str(tmp_path / "out"))
    assert "left out: out/null" in done.err
    found = (tmp_path / "out/suid").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o755, os.geteuid())
    assert not (tmp_path / "out/null").exists()
    alone = box("cp", f"{name}:/t/s/null", str(tmp_path / "null2"))
    assert (alone.code, "is a device" in alone.err) == (2, True)
    box.ok("cp", "-a", f"{name}:/t/s/null", str(tmp_path / "null2"))
    assert stat.S_ISCHR((tmp_path / "null2").stat().st_mode)


def test_links_of_a_container_lead_nowhere_else(box: Containers, name: str, tmp_path: Path) -> None:
    """Links are resolved in the container, however often they leave it by their text."""
    victim = tmp_path / "victim"
    victim.mkdir()
    bait = tmp_path / "bait"
    bait.mkdir()
    (bait / "abs").symlink_to(victim)
    (bait / "up").symlink_to("/" + "../" * 30 + str(victim)[1:])
    (bait / "proc").symlink_to(f"/proc/{os.getpid()}/root{victim}")
    box.ok("cp", str(bait), f"{name}:/bait")
    (tmp_path / "file").write_text("x")
    for link in ("abs", "up", "proc"):
        assert box("cp", str(tmp_path / "file"), f"{name}:/bait/{link}/evil").code == 3
        assert box("cp", f"{name}:/bait/{link}/.", str(tmp_path / "out")).code == 3
    assert list(victim.iterdir()) == []
    # A link that an earlier copy left here is no directory to go on in.
    box.ok("cp", f"{name}:/bait", str(tmp_path / "out"))
    (tmp_path / "dirs/abs").mkdir(parents=True)
    (tmp_path / "dirs/abs/evil").write_text("x")
    box.ok("cp", str(tmp_path / "dirs"), f"{name}:/dirs")
    done = box("cp", f"{name}:/dirs/.", str(tmp_path / "out"))
    assert (done.code, list(victim.iterdir())) == (4, [])
    assert "cannot overwrite non-directory 'abs'" in done.err


def test_a_fifo_makes_nobody_wait(box: Containers, name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    box.ok("cp", str(tmp_path), f"{name}:/t/s")
    box.ok("cp", f"{name}:/t/s", str(tmp_path / "out"))
    assert stat.S_ISFIFO((tmp_path / "out/fifo").lstat().st_mode)


def _stream(box: Containers, *words: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        box.command(*words), env=box.environment(), input=data, capture_output=True, check=False
    )


def test_tars_out_and_in(box: Containers, name: str, tmp_path: Path) -> None:
    done = _stream(box, "cp", f"{name}:/t/dir", "-")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert sorted(tar.getnames()) == ["dir", *(f"dir/{one}" for one in _DIR)]
        content = tar.extractfile("dir/sub/b")
        assert content is not None
        assert content.read() == b"B\n"
    content_alone = _stream(box, "cp", f"{name}:/t/dir/.", "-").stdout
    with tarfile.open(fileobj=io.BytesIO(content_alone)) as tar:
        assert "./a" in tar.getnames() or "a" in tar.getnames()
    assert _stream(box, "cp", "-", f"{name}:/tmp", data=done.stdout).returncode == 0
    box.ok("cp", f"{name}:/tmp/dir/.", str(tmp_path / "back"))
    assert _tree(tmp_path / "back") == _DIR
    wrong = _stream(box, "cp", "-", f"{name}:/tmp", data=b"no tar at all")
    assert (wrong.returncode, b"not a tar archive" in wrong.stderr) == (10, True)


def test_a_tar_goes_through_the_containers_links(
    box: Containers, name: str, tmp_path: Path
) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("dlnk/deep/new")  # without entries for its directories
        member.size = 3
        tar.addfile(member, io.BytesIO(b"new"))
    assert _stream(box, "cp", "-", f"{name}:/t", data=packed.getvalue()).returncode == 0
    box.ok("cp", f"{name}:/t/dir/deep/new", str(tmp_path))
    assert (tmp_path / "new").read_text() == "new"


def test_volumes_of_a_container_that_does_not_run(box: Containers, tmp_path: Path) -> None:
    box.ok("create", "--name", "cc", "-v", "data:/data", "-v", f"{tmp_path}:/ro:ro", "box", "true")
    (tmp_path / "file").write_text("kept")
    box.ok("cp", str(tmp_path / "file"), "cc:/data/")
    assert box.ok("run", "--rm", "-v", "data:/d", "box", "cat", "/d/file").out == "kept"
    assert "Read-only" in box("cp", str(tmp_path / "file"), "cc:/ro/other").err
    box.ok("cp", "cc:/ro/file", str(tmp_path / "again"))
    box.ok("container", "rm", "cc")
    assert box.leftovers() == []


def test_a_root_that_is_read_only(box: Containers, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    box.ok("create", "--name", "ro", "--read-only", "box", "true")
    done = box("cp", str(tmp_path / "file"), "ro:/file")
    assert (done.code, "Read-only" in done.err) == (12, True)


def test_what_the_kernel_says_is_no_file(box: Containers, tmp_path: Path) -> None:
    box.ok("run", "-d", "--name", "cc", "box", "sleep", "1000")
    (tmp_path / "file").write_text("x")
    done = box("cp", "cc:/proc/version", str(tmp_path))
    assert (done.code, "is the kernel's" in done.err) == (2, True)
    done = box("cp", str(tmp_path / "file"), "cc:/proc/sys/kernel/hostname")
    assert done.code == 2
    box.ok("cp", "cc:/.", str(tmp_path / "all"))
    assert not (tmp_path / "all/proc").exists()
    assert (tmp_path / "all/bin/sh").is_file()


def test_what_is_mounted_over_a_file_stays(box: Containers, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mounted\n")
    (tmp_path / "other").write_text("other\n")
    mount = f"{tmp_path}/file:/srv/file"
    box.ok("run", "-d", "--name", "cc", "-v", mount, "box", "sleep", "1000")
    for target in ("/srv/file", "/etc/hosts"):
        done = box("cp", str(tmp_path / "other"), f"cc:{target}")
        assert (done.code, "is mounted from elsewhere" in done.err) == (4, True)
    assert box.ok("exec", "cc", "cat", "/srv/file").out == "mounted\n"
    box.ok("stop", "-t", "0", "cc")
    assert box("cp", str(tmp_path / "other"), "cc:/srv/file").code == 4
    assert (tmp_path / "file").read_text() == "mounted\n"


def test_for_the_containers_own_user(box: Containers, tmp_path: Path) -> None:
    box.ok("run", "-d", "--name", "cc", "-u", "12:34", "box", "sleep", "1000")
    (tmp_path / "file").write_text("x")
    box.ok("cp", "-a", str(tmp_path / "file"), "cc:/tmp/own")
    box.ok("cp", str(tmp_path / "file"), "cc:/tmp/same")
    said = box.ok("exec", "cc", "stat", "-c", "%u:%g", "/tmp/own", "/tmp/same").out
    assert said.split() == ["12:34", "0:0"]


def test_a_container_that_was_copied_from_starts(box: Containers, tmp_path: Path) -> None:
    box.ok("create", "--name", "cc", "box", "cat", "/file")
    (tmp_path / "file").write_text("given before its start")
    box.ok("cp", str(tmp_path / "file"), "cc:/")
    assert box.ok("start", "-a", "cc").out == "given before its start"
