"""``mount --from``: images of another store by the command line, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Cli
from tests.support.lazy import wait_until
from tests.support.namespaces import private_mount_table
from tests.support.views import needs_fuse, needs_root, server_pids

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [*needs_root, *needs_fuse]

CONTENT = b"a file of the other store\n" * 100


@pytest.fixture(autouse=True, scope="module")
def own_mounts() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    with private_mount_table():
        yield


@pytest.fixture
def other(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("one", "two", "three"):
        (tree / name).write_bytes(name.encode() + CONTENT)
    Cli(tmp_path / "other").ok("import", tree, "-t", "a:1")
    return tmp_path / "other"


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path / "store")  # not there: mounting makes it
    (tmp_path / "view").mkdir()
    yield cli
    if cli.store.exists():
        cli("umount", "--all", "--lazy")


def test_an_image_of_another_store_is_shown(cli: Cli, other: Path, tmp_path: Path) -> None:
    view = tmp_path / "view"
    cli.ok("mount", "--from", other, "a:1", view)
    assert (view / "one").read_bytes() == b"one" + CONTENT
    (listed,) = cli.ok("mounts", "--json").json()
    assert listed["remote"] == str(other)
    assert listed["fetched"] == {"chunks": 1, "size": len(CONTENT) + 3, "failures": 0}
    assert f"{listed['backend']}, lazy" in cli.ok("mounts").out
    assert cli.ok("images", "-q").out == ""
    cli.ok("gc")
    assert (view / "two").read_bytes() == b"two" + CONTENT
    cli.ok("umount", view)
    assert cli.ok("mounts", "-q").out == ""
    assert os.listdir(cli.store / "views" / "lowers") == []  # its server removes that at its end


def test_a_trace_is_recorded_and_fetched_ahead(cli: Cli, other: Path, tmp_path: Path) -> None:
    view, trace = tmp_path / "view", tmp_path / "trace"
    cli.ok("mount", "--from", other, "--record-trace", trace, "a:1", view)
    (view / "three").read_bytes()
    cli.ok("umount", view)
    assert len(trace.read_text().splitlines()) == 2
    again = Cli(tmp_path / "empty")
    again.ok("mount", "--from", other, "--prefetch", trace, "a:1", view)
    wait_until(lambda: again.ok("mounts", "--json").json()[0]["fetched"]["chunks"] == 1)
    assert (view / "three").read_bytes() == b"three" + CONTENT
    assert again.ok("mounts", "--json").json()[0]["fetched"]["chunks"] == 1
    again.ok("umount", view)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--from", "nowhere", "a:1"), 3, "nowhere"),
        (("--from", "other", "b:2"), 3, "b:2"),
        (("--from", "store", "a:1"), 2, "is this store itself"),
        (("--prefetch", "all", "a:1"), 2, "--from"),
        (("--record-trace", "new", "a:1"), 2, "--from"),
        (("--from", "other", "--record-trace", "there", "a:1"), 2, "exists already"),
        (("--from", "other", "--prefetch", "missing", "a:1"), 2, "there is no trace"),
        (("--from", "other", "--prefetch", "there", "a:1"), 2, "is no trace"),
        (("--from", "other", "--backend", "kernel-packs", "a:1"), 15, "another store"),
    ],
)
def test_what_is_refused(
    cli: Cli, other: Path, tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    cli.ok("init")
    (tmp_path / "there").write_text("no trace")
    places = {name: str(tmp_path / name) for name in ("nowhere", "other", "store", "new")}
    places |= {name: str(tmp_path / name) for name in ("there", "missing")}
    arguments = [places.get(word, word) for word in words]
    assert said in cli.fails(code, "mount", *arguments, tmp_path / "view")
    assert json.loads(cli.ok("mounts", "--json").out) == []


def test_a_fuse_server_of_a_remote_may_die(cli: Cli, other: Path, tmp_path: Path) -> None:
    view = tmp_path / "view"
    cli.ok("mount", "--backend", "fuse", "--from", other, "a:1", view)
    assert (view / "one").read_bytes() == b"one" + CONTENT
    (pid,) = server_pids(cli.store)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server_pids(cli.store) not in ([], [pid]))
    assert (view / "two").read_bytes() == b"two" + CONTENT
    assert cli.ok("mounts", "--json").json()[0]["state"] == "mounted"
