from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from layerstore.linux import files
from layerstore.linux.locks import FileLock, LockBusyError, exclusive, is_held, shared

if TYPE_CHECKING:
    from pathlib import Path


def test_short_writes_and_reads_are_completed(tmp_path: Path, monkeypatch) -> None:
    data = os.urandom(1000)
    write, pread = os.write, os.pread
    monkeypatch.setattr(os, "write", lambda fd, part: write(fd, part[:7]))
    monkeypatch.setattr(os, "pread", lambda fd, count, at: pread(fd, min(count, 7), at))
    files.publish_bytes(data, staging=str(tmp_path / "t"), target=str(tmp_path / "f"))
    assert files.read_file(str(tmp_path / "f"), max_bytes=1000) == data
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        assert files.read_at(fd, 500, 250) == data[250:750]
        with pytest.raises(files.ShortFileError, match="1 bytes early"):
            files.read_at(fd, 501, 500)
    finally:
        os.close(fd)


@pytest.mark.parametrize("call", ["write", "fsync", "close", "rename"])
def test_any_failure_poisons_the_staged_file(tmp_path: Path, monkeypatch, call: str) -> None:
    real = getattr(os, call)
    failed = []

    def fail(*args: object, **kwargs: object) -> object:
        if not failed:
            failed.append(call)
            if call == "close":
                real(*args)
            raise OSError(errno.EIO, "injected")
        return real(*args, **kwargs)

    staged = files.StagedFile(str(tmp_path / "t"))
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="injected"):  # noqa: PT012 -- one of the three fails
        staged.write(b"x")
        staged.seal()
        staged.publish(str(tmp_path / "f"))
    monkeypatch.undo()
    assert failed == [call]
    assert list(tmp_path.iterdir()) == []
    staged.discard()


def test_the_order_is_write_fsync_rename_directory(tmp_path: Path, monkeypatch) -> None:
    calls: list[str] = []
    for name in ("write", "fsync", "close", "rename"):
        real = getattr(os, name)

        def traced(*args: object, _real=real, _name=name) -> object:
            kind = ""
            if _name == "fsync":
                kind = ":dir" if os.path.isdir(f"/proc/self/fd/{args[0]}") else ":file"
            calls.append(_name + kind)
            return _real(*args)

        monkeypatch.setattr(os, name, traced)
    files.publish_bytes(b"x", staging=str(tmp_path / "t"), target=str(tmp_path / "f"))
    assert calls == ["write", "fsync:file", "close", "rename", "fsync:dir", "close"]


def test_read_file_refuses_what_is_not_a_small_regular_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    (tmp_path / "l").symlink_to("f")
    os.mkfifo(tmp_path / "p")
    with pytest.raises(OSError, match="more than 4"):
        files.read_file(str(tmp_path / "f"), max_bytes=4)
    for name in ("l", "p", "."):
        with pytest.raises(OSError):
            files.read_file(str(tmp_path / name), max_bytes=100)


def test_private_directories(tmp_path: Path) -> None:
    old = os.umask(0o777)
    try:
        assert files.make_private_dir(str(tmp_path / "d"))
        assert not files.make_private_dir(str(tmp_path / "d"))
    finally:
        os.umask(old)
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(FileExistsError):
        files.make_private_dir(str(tmp_path / "f"))
    assert files.remove_if_present(str(tmp_path / "f"))
    assert not files.remove_if_present(str(tmp_path / "f"))


def test_openat2_stays_in_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "passwd").write_bytes(b"inside")
    (root / "abs").symlink_to("/etc/passwd")
    (root / "up").symlink_to("../../../../etc/passwd")
    (root / "magic").symlink_to("/proc/self/root/etc/passwd")
    rules = files.RESOLVE_IN_ROOT | files.RESOLVE_NO_MAGICLINKS
    with files.directory(str(root)) as dir_fd:
        for name in (b"abs", b"up", b"/etc/passwd", b"../etc/passwd"):
            try:
                fd = files.openat2(dir_fd, name, os.O_RDONLY, resolve=rules)
            except OSError as err:
                if err.errno == errno.ENOSYS:
                    pytest.skip("openat2 needs Linux 5.6")
                raise
            with os.fdopen(fd, "rb") as file:
                assert file.read() == b"inside"
        with pytest.raises(FileNotFoundError):
            files.openat2(dir_fd, b"magic", os.O_RDONLY, resolve=rules)


def test_locks_exclude_each_other_within_a_process(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    assert not is_held(path)
    with exclusive(path):
        assert is_held(path)
        with pytest.raises(LockBusyError):
            FileLock(path, wait=False)
        with pytest.raises(LockBusyError):
            FileLock(path, wait=False, shared=True)
    with shared(path), shared(path):
        assert not is_held(path)
        with pytest.raises(LockBusyError):
            FileLock(path, wait=False)
    with FileLock(path, wait=False) as lock:
        assert lock.fileno() >= 0
        lock.close()
        assert not is_held(path)


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        lock = FileLock(path)
        os.write(told, b"x")
        os.read(ready, 0)
        import time

        time.sleep(60)
        lock.close()
        os._exit(0)
    os.read(ready, 1)
    assert is_held(path)
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert not is_held(path)
    os.close(ready)
    os.close(told)


def test_a_private_file_is_replaced_whole_or_stays(tmp_path, monkeypatch):
    target = tmp_path / "record"
    files.replace_private(str(target), b"one")
    (tmp_path / f"record.{os.getpid()}.tmp").write_bytes(b"of one that died with our number")
    files.replace_private(str(target), memoryview(b"two"))
    assert target.read_bytes() == b"two"
    assert target.stat().st_mode & 0o777 == 0o600

    def full(fd, data):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files, "write_all", full)
    with pytest.raises(OSError, match="full"):
        files.replace_private(str(target), b"three")
    assert [path.name for path in tmp_path.iterdir()] == ["record"]
    assert target.read_bytes() == b"two"


def test_what_the_kernel_reads_is_the_owners_alone_even_among_a_group(tmp_path):
    tmp_path.chmod(0o2770)
    files.replace_private(str(tmp_path / "shared"), b"")
    files.replace_private(str(tmp_path / "own"), b"", owner_alone=True)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"shared": 0o660, "own": 0o600}
