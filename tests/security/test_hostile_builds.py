# ruff: noqa: F811 -- pytest fixtures are parameters of the same name
"""Images and Dockerfiles made to harm the host: refused, or harmless."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import BuildError, UnsupportedError
from layerstore.formats.tree import Entry, Kind
from layerstore.image.layer_item import LayerItem
from tests.support.build import add_base, add_image, box, builder, needs_runc  # noqa: F401

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.build import Builder


def runs(function):
    for mark in needs_runc:
        function = mark(function)
    return function


def link(path: str, target: str) -> LayerItem:
    return LayerItem(
        Entry(path=path.encode(), kind=Kind.SYMLINK, mode=0o777, target=target.encode())
    )


def hostile_base(builder: Builder, name: str, *items: LayerItem) -> None:
    """Store ``box`` with entries replaced."""
    from layerstore.image.layers import load_changeset

    base = add_base(builder.store)
    replaced = {item.entry.path for item in items}
    kept = [
        LayerItem(entry)
        for entry in load_changeset(builder.store, base.layers[0]).entries
        if not any(entry.path == path or entry.path.startswith(path + b"/") for path in replaced)
    ]
    add_image(builder.store, name, [*kept, *items])


@runs
@pytest.mark.parametrize(
    "target", ["{canary}", "../../../../../../..{canary}", "/proc/1/root{canary}"]
)
@pytest.mark.parametrize("path", ["etc", "dev", "proc", "sys", "run"])
def test_links_in_place_of_system_directories(
    builder: Builder,
    tmp_path: Path,
    path: str,
    target: str,
) -> None:
    """Mount points behind links are made inside the image or not at all."""
    canary = tmp_path / "canary"
    canary.mkdir()
    hostile_base(builder, "evil", link(path, target.format(canary=canary)))
    with contextlib.suppress(BuildError):
        builder.build(
            "FROM evil\nRUN --mount=type=secret,id=s echo x > /run/x; echo y > /etc/y; true\n",
            secrets={"s": b"secret"},
        )
    assert os.listdir(canary) == []


@runs
@pytest.mark.parametrize("kind", [Kind.FIFO, Kind.CHAR, Kind.DIR])
def test_a_passwd_that_is_no_file(builder: Builder, kind: Kind) -> None:
    entry = Entry(path=b"etc/passwd", kind=kind, mode=0o644, dev_major=1, dev_minor=3)
    if kind is not Kind.CHAR:
        entry = Entry(path=b"etc/passwd", kind=kind, mode=0o755)
    hostile_base(builder, "evil", LayerItem(entry))
    builder.build("FROM evil\nCOPY --from=evil --chown=5 /bin/sh /x\n")
    for user in ("5", "daemon"):
        with pytest.raises(BuildError, match=r"passwd of the image"):
            builder.build(f"FROM evil\nUSER {user}\nRUN true\n")
    with pytest.raises(BuildError, match="knows no user 'daemon'"):
        builder.build("FROM evil\nCOPY --from=evil --chown=daemon /bin/sh /x\n")


@runs
def test_a_passwd_that_is_a_link_to_the_host(builder: Builder, tmp_path: Path) -> None:
    canary = tmp_path / "passwd"
    canary.write_text("daemon:x:4242:4242::/:/bin/sh\n")
    hostile_base(builder, "evil", link("etc/passwd", str(canary)))
    with pytest.raises(BuildError, match="knows no user 'daemon'"):
        builder.build("FROM evil\nUSER daemon\nRUN id\n")


@runs
def test_programs_of_the_image_are_not_run_by_the_host(
    builder: Builder,
    tmp_path: Path,
) -> None:
    canary = tmp_path / "ran"
    script = f"#!/bin/sh\ntouch {canary}\n".encode()
    builder.write(dict.fromkeys(("xz", "gzip", "tar", "git", "python3", "runc"), script))
    builder.write({"archive.xz": b"\xfd7zXZ\0 not really"})
    add_base(builder.store)
    builder.build(
        "FROM box\nCOPY --chmod=755 xz gzip tar git python3 runc /usr/bin/\n"
        "ADD archive.xz /x/\nRUN true\n"
    )
    assert not canary.exists()


@runs
def test_a_step_cannot_reach_host_files_through_its_mounts(box: Builder) -> None:
    box.build(
        "FROM box\nRUN for f in /etc/hosts /etc/resolv.conf; do "
        '(echo evil >> $f) 2>/dev/null && echo "[wrote $f]"; done; '
        "cat /proc/self/mountinfo; true\n"
    )
    assert b"[wrote" not in box.ui.text
    with open("/etc/hosts") as file:
        assert "evil" not in file.read()


@runs
def test_much_output_on_one_line_is_passed_on_in_pieces(box: Builder) -> None:
    sizes = []
    box.ui.output = lambda number, data: sizes.append(len(data))  # type: ignore[method-assign]
    ui = box.ui
    from layerstore.build.api import BuildRequest, build

    request = BuildRequest(
        context=box.context,
        dockerfile_text=b"FROM box\nRUN dd if=/dev/zero bs=1M count=64 2>/dev/null\n",
    )
    build(box.store, request, ui)
    assert sum(sizes) == 64 << 20
    assert max(sizes) <= 64 << 10


@runs
def test_deep_trees_and_immutable_files_of_a_step_are_removed(box: Builder) -> None:
    with pytest.raises(BuildError, match="exit status 3"):
        box.build(
            "FROM box\nRUN i=0; while [ $i -lt 900 ]; do mkdir d && cd d; i=$((i+1)); done; "
            "echo x > file; exit 3\n"
        )
    assert [name for name in os.listdir(box.store.root / "tmp") if "build" in name] == []


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="RUN needs root")
def test_without_a_runtime_only_run_fails(
    builder: Builder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    builder.write({"a": "A"})
    add_image(builder.store, "box", [])
    monkeypatch.setenv("PATH", str(tmp_path))
    builder.build("FROM box\nCOPY a /a\n")
    with pytest.raises(UnsupportedError, match="neither runc nor crun") as caught:
        builder.build("FROM box\nRUN true\n")
    assert caught.value.hint == "apt-get install runc"
    broken = tmp_path / "runc"
    broken.write_text("#!/bin/sh\nexit 9\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    if not os.path.exists("/usr/bin/crun"):
        with pytest.raises(UnsupportedError, match="exits 9"):
            builder.build("FROM box\nRUN true\n")
