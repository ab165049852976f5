"""Known holes of runtimes: which versions have them, and what packages say they mended."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from layerstore.runtime import holes
from layerstore.runtime.holes import described, fixes_of, mended_by

if TYPE_CHECKING:
    from pathlib import Path

LEAK, RACES = "CVE-2024-21626", {"CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"}


class Host:
    """Directories in the place of the host's: one for packaged programs, and dpkg's."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.programs, self.dpkg, self.docs = top / "bin", top / "info", top / "doc"
        for directory in (self.programs, self.dpkg, self.docs):
            directory.mkdir()
        monkeypatch.setattr(holes, "_PACKAGED", (str(self.programs),))
        monkeypatch.setattr(holes, "_DPKG_LISTS", str(self.dpkg))
        monkeypatch.setattr(holes, "_CHANGELOGS", str(self.docs))

    def program(self, name: str, says: str, place: Path | None = None) -> str:
        """Make a runtime that says its version."""
        path = (place or self.programs) / name
        path.write_text(f"#!/bin/sh\necho '{name} version {says}'\necho more\n")
        path.chmod(0o755)
        return str(path)

    def package(self, name: str, program: str, changelog: str | None) -> None:
        """Make dpkg know a package that has a program."""
        (self.dpkg / f"{name}.list").write_text(f"/.\n/usr/sbin/{program}\n/usr/share/doc\n")
        if changelog is not None:
            (self.docs / name).mkdir()
            (self.docs / name / "changelog.Debian.gz").write_bytes(
                gzip.compress(changelog.encode())
            )


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def names(fixes: holes.RuntimeFixes) -> set[str]:
    return {hole.name for hole in fixes.holes}


@pytest.mark.parametrize(
    ("version", "has", "has_not"),
    [
        ("1.0.0-rc6", {"CVE-2019-5736", "CVE-2021-30465", LEAK}, set()),
        ("1.0.0~rc93+ds1", {"CVE-2021-30465", LEAK}, {"CVE-2019-5736"}),
        ("1.0.0", {LEAK}, {"CVE-2021-30465", "CVE-2019-5736"}),
        ("1.1.11", {LEAK, "CVE-2024-45310", *RACES}, set()),
        ("1.1.12", {"CVE-2024-45310", *RACES}, {LEAK}),
        ("1.1.14", RACES, {"CVE-2024-45310"}),
        ("1.2.7", RACES, {"CVE-2024-45310", LEAK}),
        ("1.2.8", {"CVE-2026-41579"}, RACES),
        ("1.3.2", RACES, {LEAK}),
        ("1.3.3", {"CVE-2026-41579"}, RACES),
        ("1.4.0-rc.2", RACES, set()),
        ("1.4.0-rc.3", {"CVE-2026-41579"}, RACES),
        ("1.5.0-rc.2", {"CVE-2026-41579"}, RACES),
    ],
)
def test_versions(
    host: Host, tmp_path: Path, version: str, has: set[str], has_not: set[str]
) -> None:
    fixes = fixes_of(host.program("runc", version, tmp_path), "runc")
    assert fixes.is_certain
    assert fixes.version == version
    assert has <= names(fixes)
    assert not has_not & names(fixes)


@pytest.mark.parametrize("version", ["1.3.6", "1.4.3", "1.4.4", "1.5.0", "2.0.0", "1.5.0-rc.3"])
def test_versions_without_holes(host: Host, tmp_path: Path, version: str) -> None:
    assert fixes_of(host.program("runc", version, tmp_path), "runc") == (version, (), True)
    assert mended_by("runc") == "1.3.6 or 1.4.3"


def test_what_a_package_mended_is_no_hole(host: Host) -> None:
    host.package("runc", "runc", f"runc (1.1.5+ds1-1+deb12u1) x; y\n\n  * {LEAK}: fds\n")
    fixes = fixes_of(host.program("runc", "1.1.5+ds1"), "runc")
    assert fixes.version == "1.1.5+ds1-1+deb12u1"
    assert fixes.is_certain
    assert names(fixes) >= RACES
    assert LEAK not in names(fixes)
    assert fixes.severe == ()


def test_what_a_package_did_not_mend_is_one(host: Host) -> None:
    host.package("runc", "runc", f"runc (1.1.5+ds1-1) x; y\n\n  * CVE-2024-216261, not {LEAK}0\n")
    fixes = fixes_of(host.program("runc", "1.1.5+ds1"), "runc")
    assert [hole.name for hole in fixes.severe] == [LEAK]


def test_a_package_that_says_nothing_leaves_it_open(host: Host) -> None:
    path = host.program("runc", "1.1.5")
    host.package("runc", "runc", None)
    assert not fixes_of(path, "runc").is_certain
    (host.dpkg / "runc.list").unlink()
    fixes = fixes_of(path, "runc")
    assert LEAK in names(fixes)
    assert fixes.severe == ()


def test_docker_s_own_package_mends_nothing_by_itself(host: Host) -> None:
    host.package("containerd.io", "runc", "containerd.io (1.6) x; y\n")
    assert fixes_of(host.program("runc", "1.1.11"), "runc").severe


def test_a_damaged_changelog_says_nothing(host: Host) -> None:
    host.package("runc", "runc", "")
    (host.docs / "runc" / "changelog.Debian.gz").write_bytes(b"\x1f\x8b\x08")
    assert not fixes_of(host.program("runc", "1.1.5"), "runc").is_certain


def test_crun(host: Host, tmp_path: Path) -> None:
    old = fixes_of(host.program("crun", "1.29.1", tmp_path), "crun")
    assert described(old.holes) == (
        "CVE-2026-88264 (a symlink /dev/console is followed); "
        "CVE-2026-88265 (a symlink /dev/null is followed)"
    )
    assert old.severe == ()
    assert fixes_of(host.program("crun", "1.30", tmp_path), "crun").holes == ()


@pytest.mark.parametrize("says", ["", "unknown", "$(reboot)"])
def test_a_runtime_without_a_version(host: Host, tmp_path: Path, says: str) -> None:
    fixes = fixes_of(host.program("runc", says, tmp_path), "runc")
    assert (fixes.version, fixes.holes, fixes.is_certain) == ("", (), False)
    assert fixes_of(str(tmp_path / "none"), "runc").version == ""
