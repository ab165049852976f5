"""Images that try to break out of, or to break, who runs them."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import pytest

from layerstore.formats.tree import Entry, Kind
from layerstore.image.layers.layer_item import LayerItem
from layerstore.store.store import Store
from tests.support.build import add_image, busybox, needs_runc
from tests.support.running import Containers, containers_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = needs_runc


def _file(path: str, content: bytes = b"", mode: int = 0o644) -> LayerItem:
    entry = Entry(path=path.encode(), kind=Kind.FILE, mode=mode, size=len(content), mtime_ns=0)
    return LayerItem(entry, lambda: io.BytesIO(content))


def _entry(path: str, kind: Kind, **fields: object) -> LayerItem:
    return LayerItem(Entry(path=path.encode(), kind=kind, mtime_ns=0, **fields))  # type: ignore[arg-type]


def _shell(*more: LayerItem) -> list[LayerItem]:
    program = busybox()
    shell = Entry(
        path=b"bin/busybox", kind=Kind.FILE, mode=0o755, size=program.stat().st_size, mtime_ns=0
    )
    items = [_entry("bin", Kind.DIR, mode=0o755), LayerItem(shell, lambda: program.open("rb"))]
    items += [
        _entry(f"bin/{name}", Kind.HARDLINK, target=b"bin/busybox")
        for name in ("sh", "cat", "ls", "id", "pwd", "env", "true", "touch")
    ]
    return [*items, *more]


class Hostile(Containers):
    def image(self, *more: LayerItem, **config: object) -> str:
        with Store.open(self.store) as store:
            add_image(store, "evil", _shell(*more), **{"cmd": ("sh",), **config})
        return "evil"


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[Hostile]:
    with containers_in(tmp_path) as containers:
        yield Hostile(containers.store)


@pytest.mark.parametrize("place", ["/proc/self/fd/7", "../../proc/self/fd/8", "/link", "/dev/fd/9"])
def test_a_working_directory_that_leads_out(evil: Hostile, place: str) -> None:
    link = _entry("link", Kind.SYMLINK, target=b"/proc/self/fd/7/../..")
    image = evil.image(link, working_dir=place)
    done = evil("run", "--rm", image, "cat", "etc/shadow")
    assert done.code == 125
    assert "where no container may begin" in done.err
    assert evil.leftovers() == []


@pytest.mark.parametrize(
    "kind",
    ["fifo", "symlink", "device"],
)
def test_a_user_file_that_is_none_is_told_and_nobody_hangs(evil: Hostile, kind: str) -> None:
    etc = _entry("etc", Kind.DIR, mode=0o755)
    passwd = {
        "fifo": _entry("etc/passwd", Kind.FIFO, mode=0o644),
        "symlink": _entry("etc/passwd", Kind.SYMLINK, target=b"/dev/../../../../etc/passwd"),
        "device": _entry("etc/passwd", Kind.CHAR, mode=0o644, dev_major=1, dev_minor=5),
    }[kind]
    done = evil("run", "--rm", evil.image(etc, passwd, user="root"), "id", timeout_s=60)
    if kind == "symlink":  # leads to itself inside, never to the host's
        assert "daemon" not in done.out
    else:
        assert done.code == 125
        assert "/etc/passwd of the image is not a regular file" in done.err
    assert evil.leftovers() == []


def test_a_user_file_without_end_is_refused(evil: Hostile) -> None:
    etc = _entry("etc", Kind.DIR, mode=0o755)
    large = _file("etc/passwd", b"x:x:1:1::/:/x\n" * 400_000)
    done = evil("run", "--rm", evil.image(etc, large, user="nobody"), "id")
    assert done.code == 125
    assert "/etc/passwd of the image is larger than" in done.err


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
def test_a_link_in_the_place_of_a_standard_directory(evil: Hostile, name: str) -> None:
    link = _entry(name, Kind.SYMLINK, target=b"/tmp")
    done = evil("run", "--rm", evil.image(link), "true")
    assert done.code == 125
    assert f"/{name} of the image is not a directory" in done.err


def test_volumes_through_links_of_the_image_stay_inside(evil: Hostile, tmp_path: Path) -> None:
    canary, host = tmp_path / "canary", tmp_path / "host"
    canary.mkdir()
    host.mkdir()
    out = _entry("out", Kind.SYMLINK, target=f"/../../../..{canary}".encode())
    up = _entry("up", Kind.SYMLINK, target=b"..")
    image = evil.image(out, up)
    evil.ok("run", "--rm", "-v", f"{host}:/out/in", image, "touch", f"{canary}/in/seen")
    assert os.listdir(host) == ["seen"]
    assert os.listdir(canary) == []
    done = evil("run", "--rm", "-v", f"{host}:/up", image, "true")
    assert done.code == 125
    assert "nothing can be mounted there" in done.err


def test_config_values_of_no_sense(evil: Hostile) -> None:
    image = evil.image(env=("no equals", "=x", "A=1"), volumes=("/",), labels={"\x1b[2J": "\x07"})
    done = evil.ok("run", "--name", "odd", image, "env")
    assert "A=1" in done.lines
    assert not any("no equals" in line for line in done.lines)
    assert "\x1b" not in evil.ok("ps", "-a", "--format", "{{.Labels}}").out


def test_a_user_of_three_parts_and_one_out_of_range(evil: Hostile) -> None:
    for user in ("0:0:0", "4294967295", "-1", "nobodyhere"):
        done = evil("run", "--rm", "-u", user, evil.image(), "id")
        assert done.code == 125, user
        assert evil.leftovers() == []


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x", "-x", "a" * 200, "é", "x\n", "0" * 64])
def test_names_that_are_none(evil: Hostile, name: str) -> None:
    done = evil("run", "--rm", f"--name={name}", evil.image(), "true")
    assert done.code == (0 if not name else 125)


def test_what_a_container_prints_does_not_reach_a_terminal_by_ps(evil: Hostile) -> None:
    evil.ok("run", "--name", "esc", evil.image(), "true", "\x1b[31mred")
    assert "\x1b" not in evil.ok("ps", "-a", "--no-trunc").out
