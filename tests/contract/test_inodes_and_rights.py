"""Inode numbers, hard links, holes and who may do what: the same in everything that shows a tree.

The plain directory is one of the subjects: what it does not hold to is no part of the contract.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.support.subjects import (
    Shown,
    each_subject,
    read_only_and_writable,
)
from tests.support.trees import (
    CAPABILITY_NET_RAW,
    acl_blob,
    compare_trees,
    make_odd_tree,
)
from tests.support.views import needs_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [*needs_root, each_subject, read_only_and_writable]

HUGE_BYTES = (4 << 30) + 12_345
NOBODY = 0xFFFF_FFFF
OWNER, NAMED, GROUP, STRANGER = 11_000, 11_001, 11_002, 11_003


def fill(tree: Path) -> None:
    tree.chmod(0o755)
    odd = tree / "odd"
    odd.mkdir()
    make_odd_tree(odd)
    with (tree / "huge").open("wb") as file:
        file.write(b"begin" * 100)
        file.seek(HUGE_BYTES - 1000)
        file.write(b"end" * 300)
        file.truncate(HUGE_BYTES)
    links = tree / "links"
    links.mkdir()
    (links / "one").write_text("linked")
    for name in ("two", "three"):
        os.link(links / "one", links / name)
    rights = tree / "rights"
    rights.mkdir()
    rights.chmod(0o755)
    make_file(rights / "mode", 0o640)
    make_file(rights / "setuid", 0o4755)
    make_file(rights / "capable", 0o755)
    os.setxattr(rights / "capable", "security.capability", CAPABILITY_NET_RAW)
    make_file(rights / "acl", 0o600)
    # The mask, which is what the mode shows of the group, allows more than the group has.
    acl = acl_blob((1, 6, NOBODY), (2, 4, NAMED), (4, 0, NOBODY), (16, 6, NOBODY), (32, 0, NOBODY))
    os.setxattr(rights / "acl", "system.posix_acl_access", acl)
    (rights / "closed").mkdir(mode=0o700)
    make_file(rights / "closed" / "inside", 0o644)


def make_file(path: Path, mode: int) -> None:
    path.write_text(path.name)
    os.chown(path, OWNER, GROUP)
    path.chmod(mode)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    base = tmp_path_factory.mktemp("contract")
    shown = Shown(base, fill)
    yield shown
    shown.close()


@pytest.fixture
def view(shown: Shown, subject: str, rw: bool) -> Iterator[Path]:
    with shown.at(subject, rw=rw) as view:
        yield view


def everything(view: Path) -> Iterator[tuple[bytes, os.stat_result]]:
    for path in describe_names(os.fsencode(view)):
        yield path, os.lstat(path)


def describe_names(root: bytes) -> Iterator[bytes]:
    yield root
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from describe_names(entry.path)
            else:
                yield entry.path


def check_listing(directory: Path) -> None:
    with os.scandir(directory) as entries:
        told = {entry.path: entry.inode() for entry in entries}
    assert told == {path: os.lstat(path).st_ino for path in told}


def test_the_whole_tree(shown: Shown, view: Path) -> None:
    assert compare_trees(shown.tree / "odd", view / "odd") == []
    assert compare_trees(shown.tree / "rights", view / "rights") == []


def test_an_inode_number_is_one_files_and_listings_say_the_same(shown: Shown, view: Path) -> None:
    names: dict[tuple[int, int], set[bytes]] = {}
    prefix = len(os.fsencode(view)) + 1
    for path, status in everything(view):
        names.setdefault((status.st_dev, status.st_ino), set()).add(path[prefix:])
    wanted: dict[tuple[int, int], set[bytes]] = {}
    prefix = len(os.fsencode(shown.tree)) + 1
    for path, status in everything(shown.tree):
        wanted.setdefault((status.st_dev, status.st_ino), set()).add(path[prefix:])
    assert {frozenset(each) for each in names.values()} == {
        frozenset(each) for each in wanted.values()
    }
    for directory in (view, view / "links", view / "odd" / "links", view / "odd" / "files"):
        check_listing(directory)
    assert len({status.st_dev for _, status in everything(view)}) == 1


def test_link_counts(view: Path) -> None:
    assert [(view / "links" / name).stat().st_nlink for name in ("one", "two")] == [3, 3]
    inodes = {(view / "links" / name).stat().st_ino for name in ("one", "two", "three")}
    assert len(inodes) == 1


def test_a_copied_up_link_is_a_file_of_its_own(view: Path, rw: bool) -> None:
    """As in every overlay without index: documented, and relied on by layers that are made."""
    if not rw:
        with pytest.raises(OSError, match="Read-only"):
            (view / "links" / "one").chmod(0o600)
        return
    before = (view / "links" / "two").stat()
    (view / "links" / "one").chmod(0o600)
    assert stat.S_IMODE((view / "links" / "one").stat().st_mode) == 0o600
    after = (view / "links" / "two").stat()
    assert (after.st_mode, after.st_ino, after.st_nlink) == (
        before.st_mode,
        before.st_ino,
        before.st_nlink,
    )
    check_listing(view / "links")


def test_a_copied_up_file_keeps_its_number(view: Path, rw: bool) -> None:
    if not rw:
        return
    for name in ("odd/files/small", "rights/mode"):
        before = (view / name).stat().st_ino
        with (view / name).open("ab") as file:
            file.write(b"!")
        assert (view / name).stat().st_ino == before, name


def test_a_sparse_file_beyond_four_gibibytes(view: Path, subject: str) -> None:
    path = view / "huge"
    assert path.stat().st_size == HUGE_BYTES
    with path.open("rb") as file:
        assert file.read(700) == b"begin" * 100 + bytes(200)
        file.seek(HUGE_BYTES - 1000)
        assert file.read() == b"end" * 300 + bytes(100)
        file.seek((4 << 30) - 10)
        assert file.read(20) == bytes(20)
        if reports_holes(file.fileno()):
            hole = os.lseek(file.fileno(), 0, os.SEEK_HOLE)
            assert 500 <= hole <= 1 << 20
            data = os.lseek(file.fileno(), hole, os.SEEK_DATA)
            assert HUGE_BYTES - (2 << 20) < data <= HUGE_BYTES - 1000
        else:
            assert subject == "fusepy"  # libfuse 2 has no request for it
    assert path.stat().st_blocks * 512 < 8 << 20


def reports_holes(fd: int) -> bool:
    return os.lseek(fd, 0, os.SEEK_HOLE) < HUGE_BYTES


def as_user(uid: int, gid: int, view: Path, name: str) -> int:
    """Read a file as somebody else; return the errno, 0 for success."""
    pid = os.fork()
    if pid == 0:
        code = 99
        with contextlib.suppress(BaseException):
            os.chdir(view)  # beyond it pytest's directories are root's alone
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            try:
                os.open(name, os.O_RDONLY)
                code = 0
            except OSError as err:
                code = err.errno
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_who_may_read(view: Path) -> None:
    rights = view / "rights"
    assert as_user(OWNER, 1, rights, "mode") == 0
    assert as_user(1, GROUP, rights, "mode") == 0
    assert as_user(STRANGER, STRANGER, rights, "mode") == errno.EACCES
    assert as_user(STRANGER, STRANGER, rights, "closed/inside") == errno.EACCES
    assert as_user(STRANGER, STRANGER, rights, "setuid") == 0


def test_acls_decide(view: Path, subject: str) -> None:
    answers = [
        as_user(uid, gid, view / "rights", "acl")
        for uid, gid in ((OWNER, 1), (NAMED, NAMED), (STRANGER, GROUP), (STRANGER, STRANGER))
    ]
    if answers == [0, errno.EACCES, 0, errno.EACCES]:
        # As the mode alone says, which shows the mask as the group's: what libfuse 2 can do.
        assert subject == "fusepy"
        return
    assert answers == [0, 0, errno.EACCES, errno.EACCES]


def test_rights_are_told_as_they_are(shown: Shown, view: Path) -> None:
    for name in ("setuid", "capable", "acl"):
        one, other = (shown.tree / "rights" / name), (view / "rights" / name)
        assert one.stat().st_mode == other.stat().st_mode
        assert os.listxattr(one) == os.listxattr(other)
    assert os.getxattr(view / "rights" / "capable", "security.capability") == CAPABILITY_NET_RAW


def test_names_of_all_lengths(view: Path, rw: bool) -> None:
    names = os.listdir(os.fsencode(view / "odd" / "names"))
    assert max(map(len, names)) == 255
    assert any(b"\xff" in name for name in names)
    with pytest.raises(OSError) as caught:
        os.lstat(os.fsencode(view / "odd" / "names") + b"/" + b"n" * 256)
    assert caught.value.errno == errno.ENAMETOOLONG
    if rw:
        name = os.fsencode(view / "odd" / "names") + b"/\xfe" + b"w" * 254
        with open(name, "wb") as file:
            file.write(b"new")
        with open(name, "rb") as file:
            assert file.read() == b"new"


def test_listings_can_be_read_in_pieces_and_again(view: Path) -> None:
    for _ in range(2):
        with os.scandir(view / "odd" / "names") as entries:
            first = next(entries).name
            rest = [entry.name for entry in entries]
        assert sorted([first, *rest]) == sorted(os.listdir(view / "odd" / "names"))
        assert len({first, *rest}) == 1 + len(rest)
