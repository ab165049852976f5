"""Mounting by system calls, in a mount namespace that ends with each test's child."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import UnsupportedError
from layerstore.linux import data_layers, mounts, namespaces, probe
from layerstore.linux.removal import remove_tree
from layerstore.linux.xattrs import read_xattrs
from tests.support.forked import problem_in_child
from tests.support.namespaces import enter_private_mount_namespace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

root_only = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]

ODD_NAMES = ["plain", "with,comma", "with:colon", "back\\slash", "a\\,b\\:c,d", "sp ace\nline", "ü"]


def in_namespace(test: Callable[[], None]) -> None:
    """Run ``test`` in a child with its own mount table; fail with its traceback."""

    def work() -> None:
        enter_private_mount_namespace()
        test()

    problem = problem_in_child(work)
    assert not problem, problem


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path)


def make(base: str, *names: str) -> None:
    for name in names:
        os.makedirs(f"{base}/{name}", exist_ok=True)


class TestMounting:
    pytestmark = root_only

    @pytest.mark.parametrize("name", ODD_NAMES)
    @pytest.mark.parametrize("classic", [False, True])
    def test_overlay_takes_any_path(
        self, place: str, name: str, classic: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base = f"{place}/{name}"
        make(base, "lower", "upper", "work", "root")
        with open(f"{base}/lower/file", "w") as file:
            file.write("lower")
        if classic:
            monkeypatch.setattr(mounts, "_create", lambda *_: None)

        def test() -> None:
            overlay = mounts.Overlay((f"{base}/lower",), f"{base}/upper", f"{base}/work")
            mounts.mount_overlay(overlay, f"{base}/root", mounts.MS_NOSUID | mounts.MS_NODEV)
            assert os.listdir(f"{base}/root") == ["file"]
            flags = os.statvfs(f"{base}/root").f_flag
            assert flags & os.ST_NOSUID
            assert flags & os.ST_NODEV
            with open(f"{base}/root/new", "w") as file:
                file.write("x")

        in_namespace(test)
        assert os.listdir(f"{base}/upper") == ["new"]
        assert os.listdir(f"{base}/root") == []

    def test_overlay_of_two_hundred_directories(self, place: str) -> None:
        names = [f"{number:03}{'x' * 60}" for number in range(200)]
        make(place, "root", *names)
        overlay = mounts.Overlay(tuple(f"{place}/{name}" for name in names))

        def test() -> None:
            mounts.mount_overlay(overlay, f"{place}/root")
            assert mounts.identify(f"{place}/root").is_root

        in_namespace(test)

    @pytest.mark.parametrize("old_kernel", [False, True])
    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_files_are_read_from_data_only_layers(
        self, place: str, name: str, old_kernel: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if old_kernel:
            monkeypatch.setattr(mounts, "_create", lambda *_: None)
        base = f"{place}/{name}"
        make(base, "lower", "data/ab", "root")
        overlay = mounts.Overlay(
            (f"{base}/lower",), options=data_layers.FOLLOWING, data=(f"{base}/data",)
        )

        def test() -> None:
            mounts.mount("tmpfs", f"{base}/lower", "tmpfs")
            for path, content in (("lower/file", b"\0" * 7), ("data/ab/cd", b"content")):
                with open(f"{base}/{path}", "wb") as file:
                    file.write(content)
            os.setxattr(f"{base}/lower/file", "trusted.overlay.metacopy", b"")
            os.setxattr(f"{base}/lower/file", "trusted.overlay.redirect", b"/ab/cd")
            mounts.mount_overlay(overlay, f"{base}/root", mounts.MS_RDONLY | mounts.MS_NOSUID)
            with open(f"{base}/root/file", "rb") as file:
                assert file.read() == b"content"
            assert os.listdir(f"{base}/root") == ["file"]
            assert os.statvfs(f"{base}/root").f_flag & os.ST_NOSUID

        in_namespace(test)

    def test_too_many_options_for_old_kernels_are_an_error(
        self, place: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mounts, "_create", lambda *_: None)
        overlay = mounts.Overlay(tuple(f"{place}/{'x' * 60}{number}" for number in range(200)))
        with pytest.raises(UnsupportedError, match=r"200 directories.*reads 4095"):
            mounts.mount_overlay(overlay, place)
        with pytest.raises(mounts.MountCallError, match="take 5000 bytes"):
            mounts.mount("none", place, "tmpfs", 0, "x" * 5000)

    def test_the_kernels_own_words_are_told(self, place: str) -> None:
        make(place, "lower", "root")
        overlay = mounts.Overlay((f"{place}/lower",), f"{place}/absent", f"{place}/absent")
        with pytest.raises(mounts.MountCallError, match="No such file or directory") as caught:
            mounts.mount_overlay(overlay, f"{place}/root")
        assert caught.value.code == errno.ENOENT

    def test_bind_with_flags(self, place: str) -> None:
        make(place, "source", "target")

        def test() -> None:
            mounts.bind(f"{place}/source", f"{place}/target", flags=mounts.MS_RDONLY)
            with pytest.raises(OSError, match="Read-only"):
                os.mkdir(f"{place}/target/x")
            os.mkdir(f"{place}/source/x")
            assert os.listdir(f"{place}/target") == ["x"]
            mounts.unmount(f"{place}/target")
            assert os.listdir(f"{place}/target") == []

        in_namespace(test)

    def test_move(self, place: str) -> None:
        make(place, "a", "b")

        def test() -> None:
            mounts.set_propagation("/", mounts.MS_PRIVATE)
            mounts.mount("tmpfs", f"{place}/a", "tmpfs")
            before = mounts.identify(f"{place}/a")
            mounts.move(f"{place}/a", f"{place}/b")
            assert mounts.identify(f"{place}/b") == before
            assert not mounts.identify(f"{place}/a").is_root

        in_namespace(test)

    def test_identity_tells_mounts_apart(self, place: str) -> None:
        make(place, "a")

        def test() -> None:
            assert not mounts.identify(f"{place}/a").is_root
            seen = set()
            for _ in range(3):
                mounts.mount("tmpfs", f"{place}/a", "tmpfs")
                identity = mounts.identify(f"{place}/a")
                assert identity.is_root
                assert identity.device == os.stat(f"{place}/a").st_dev
                seen.add(identity.mount_id)
                mounts.unmount(f"{place}/a")
            if identity.unique:
                assert len(seen) == 3

        in_namespace(test)

    def test_unmounting_what_is_not_mounted(self, place: str) -> None:
        with pytest.raises(mounts.MountCallError, match="could not unmount") as caught:
            mounts.unmount(place)
        assert caught.value.code == errno.EINVAL

    def test_busy(self, place: str) -> None:
        def test() -> None:
            mounts.mount("tmpfs", place, "tmpfs")
            fd = os.open(place, os.O_RDONLY)
            with pytest.raises(mounts.MountCallError) as caught:
                mounts.unmount(place)
            assert caught.value.code == errno.EBUSY
            mounts.unmount(place, lazy=True)
            os.close(fd)

        in_namespace(test)

    def test_a_private_namespace_keeps_its_mounts_to_itself(self, place: str) -> None:
        before = namespaces.current_mount_namespace()

        def test() -> None:
            assert namespaces.current_mount_namespace() != before
            mounts.mount("tmpfs", place, "tmpfs")

        in_namespace(test)
        assert not mounts.identify(place).is_root


def test_unsupported_calls_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    error = mounts._failed("could not mount x", errno.EPERM)
    assert "Operation not permitted" in error.message
    assert error.hint is not None
    assert "root" in error.hint


class TestRemoval:
    def test_everything_odd_goes(self, place: str) -> None:
        top = f"{place}/top"
        make(top, "a/b", "closed", "empty")
        os.symlink("/etc", f"{top}/a/link")
        os.mkfifo(f"{top}/a/b/fifo")
        os.link(f"{top}/a/b/fifo", f"{top}/closed/fifo")
        os.chmod(f"{top}/closed", 0)
        remove_tree(top)
        assert os.listdir(place) == []
        assert os.path.exists("/etc/passwd")
        remove_tree(top)

    @pytest.mark.root
    @pytest.mark.skipif(os.geteuid() != 0, reason="chattr +i needs root")
    def test_immutable_files_and_directories(self, place: str) -> None:
        top = f"{place}/top"
        make(top, "a/b/c", "empty")
        for path in (f"{top}/a/b/file", f"{top}/appended"):
            with open(path, "w") as file:
                file.write("x")
        changed = subprocess.run(
            ["chattr", "+i", f"{top}/a/b/file", f"{top}/a/b", f"{top}/empty"], check=False
        )
        subprocess.run(["chattr", "+a", f"{top}/appended"], check=False)
        if changed.returncode:
            pytest.skip("no chattr, or a file system without flags")
        remove_tree(top)
        assert os.listdir(place) == []

    def test_ten_thousand_deep(self, place: str) -> None:
        os.mkdir(f"{place}/top")
        fd = os.open(f"{place}/top", os.O_RDONLY)
        for _ in range(10_000):
            os.mkdir("d", dir_fd=fd)
            below = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(fd)
        remove_tree(f"{place}/top")
        assert os.listdir(place) == []

    def test_a_symlink_at_the_top_is_not_followed(self, place: str) -> None:
        make(place, "real/keep")
        os.symlink("real", f"{place}/top")
        with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
            remove_tree(f"{place}/top")
        assert os.listdir(f"{place}/real") == ["keep"]


def test_xattrs_come_back_as_written(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"")
    try:
        os.setxattr(file, "user.b", b"\0\xff")
        os.setxattr(file, "user.a", b"")
    except OSError:
        pytest.skip("no user xattrs on the temporary directory")
    assert read_xattrs(str(file)) == ((b"user.a", b""), (b"user.b", b"\0\xff"))
    link = tmp_path / "link"
    link.symlink_to(file)
    assert read_xattrs(str(link)) == ()


def test_probes_tell_reason_and_remedy() -> None:
    findings = probe.probe_all(erofs_image=bytes(4096))
    assert len({finding.name for finding in findings}) == len(findings) >= 12
    for finding in findings:
        assert finding.reason
        assert finding.works == (finding.remedy == "")
    if os.geteuid() == 0:
        assert probe.overlay().works
    no_image = next(finding for finding in findings if finding.name == "EROFS from a file")
    assert not no_image.works


def test_a_probe_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "FUSE_LIBRARY", "libfuse.so.absent")
    finding = probe.fuse_library()
    assert not finding.works
    assert "apt-get install libfuse2" in finding.remedy
    assert "libfuse.so.absent" in finding.reason
