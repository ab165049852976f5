"""mount, mounts and umount as container runtimes and people call them.

Capabilities: fuse (/dev/fuse), root (overlay mounts on the host).
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from layerstore.snapshotter.records import Snapshot, write_record
from layerstore.store.paths import StorePaths
from tests.support.cli import Cli
from tests.support.namespaces import private_mount_table
from tests.support.views import kill, needs_libfuse, server_pids

pytestmark = [pytest.mark.fuse, pytest.mark.root]


@pytest.fixture
def cli(tmp_path):
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse")
    if os.geteuid() != 0:
        pytest.skip("needs root: overlay mounts on the host")
    root = tmp_path / "rootfs"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "motd").write_text("hello\n")
    cli = Cli(tmp_path / "store")
    cli.ok("import", root, "-t", "web:1")
    yield cli
    cli("umount", "--all", "--lazy")


@pytest.fixture
def spots(tmp_path):
    paths = [tmp_path / "views" / str(number) for number in range(3)]
    for path in paths:
        path.mkdir(parents=True)
    return paths


def views(cli):
    return {view["target"]: view for view in cli.ok("mounts", "--json").json()}


def test_views_share_an_image_and_nothing_else(cli, spots):
    cli.ok("mount", "web:1", spots[0])
    for spot in spots[1:]:
        cli.ok("mount", "--rw", "web:1", spot)
        (spot / "own").write_text(spot.name)
    assert [(spot / "etc" / "motd").read_text() for spot in spots] == ["hello\n"] * 3
    assert not (spots[0] / "own").exists()
    assert [(spot / "own").read_text() for spot in spots[1:]] == ["1", "2"]
    with pytest.raises(OSError, match="Read-only file system"):
        (spots[0] / "new").touch()

    listed = views(cli)
    assert sorted(listed) == sorted(map(str, spots))
    assert {view["state"] for view in listed.values()} == {"mounted"}
    assert [listed[str(spot)]["mode"] for spot in spots] == ["ro", "rw", "rw"]
    assert cli.ok("mounts", "-q").lines == sorted(map(str, spots))
    header, *rows = cli.ok("mounts").lines
    assert header.split() == [
        "VIEW",
        "KIND",
        "IMAGE",
        "MODE",
        "BACKEND",
        "DIRECTORY",
        "MOUNTED",
        "STATE",
    ]
    assert all("web:1" in row and "mounted" in row for row in rows)

    cli.ok("umount", *spots)
    assert views(cli) == {}
    assert os.listdir(cli.store / "uppers") == []
    assert [os.listdir(spot) for spot in spots] == [[], [], []]


def test_a_mounted_image_is_kept(cli, spots):
    cli.ok("mount", "web:1", spots[0])
    message = cli.fails(4, "rm", "web:1")
    assert f"is mounted at {spots[0]}" in message
    assert f"hint: layerstore umount {spots[0]}" in message
    cli.ok("gc")
    assert (spots[0] / "etc" / "motd").read_text() == "hello\n"
    cli.ok("umount", spots[0])
    cli.ok("rm", "web:1")


def test_missing_and_taken_mount_points(cli, spots, tmp_path):
    message = cli.fails(2, "mount", "web:1", tmp_path / "absent")
    assert f"hint: make it: mkdir -p {tmp_path}/absent" in message
    (tmp_path / "file").touch()
    assert "is not a directory" in cli.fails(2, "mount", "web:1", tmp_path / "file")
    cli.ok("mount", "web:1", spots[0])
    message = cli.fails(4, "mount", "web:1", spots[0])
    assert f"hint: unmount it first: layerstore umount {spots[0]}" in message
    assert "no image 'other:1'" in cli.fails(3, "mount", "other:1", spots[1])
    assert list(views(cli)) == [str(spots[0])]


def test_a_busy_view_names_who_uses_it(cli, spots):
    cli.ok("mount", "--rw", "web:1", spots[0])
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        cwd=spots[0],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        sleeper.stdout.readline()
        message = cli.fails(15, "umount", spots[0])
        assert "is busy" in message
        assert str(sleeper.pid) in message
        assert (
            f"hint: end what uses it, or detach it: layerstore umount --lazy {spots[0]}" in message
        )
        assert (spots[0] / "etc" / "motd").read_text() == "hello\n"
        cli.ok("umount", "--lazy", spots[0])
        assert views(cli) == {}
    finally:
        sleeper.communicate(b"\n")


def test_one_busy_view_does_not_keep_the_others(cli, spots):
    for spot in spots:
        cli.ok("mount", "web:1", spot)
    with (spots[1] / "etc" / "motd").open():
        result = cli("umount", "--all")
        assert result.code == 15
        assert list(views(cli)) == [str(spots[1])]
    cli.ok("umount", "--all")


def test_a_kept_upper_holds_the_changes(cli, spots):
    cli.ok("mount", "--rw", "web:1", spots[0])
    (spots[0] / "new").write_text("mine")
    upper = Path(cli.ok("umount", "--keep-upper", spots[0]).out.strip())
    assert (upper / "new").read_text() == "mine"


@needs_libfuse
def test_a_killed_server_is_found_and_cleaned_up(cli, spots):
    cli.ok("mount", "--backend", "fusepy", "web:1", spots[0])
    for pid in server_pids(cli.store):
        kill(pid)
    assert views(cli)[str(spots[0])]["state"] == "stale"
    message = cli.fails(4, "mount", "web:1", spots[0])
    assert f"hint: clean it up: layerstore umount {spots[0]}" in message
    cli.ok("umount", spots[0])
    cli.ok("mount", "web:1", spots[0])
    assert (spots[0] / "etc" / "motd").read_text() == "hello\n"


def test_a_server_that_does_not_end_is_told(cli, spots):
    with private_mount_table():
        cli.ok("mount", "--backend", "fuse", "web:1", spots[0])
        (server,) = server_pids(cli.store)
        spots[0].stat()  # known from now on: nobody asks one that is stopped
        os.kill(server, signal.SIGSTOP)
        try:
            said = cli.ok("umount", spots[0]).err
            assert "note: after 5 seconds 1 FUSE server had not ended" in said
        finally:
            os.kill(server, signal.SIGCONT)
        assert views(cli) == {}


@pytest.mark.parametrize("all_of_them", [False, True])
def test_nothing_is_left_of_servers_when_a_script_goes_on(cli, spots, all_of_them):
    with private_mount_table():
        for spot in spots[:2]:
            cli.ok("mount", "--backend", "fuse", "web:1", spot)
        cli.ok("umount", *(["--all"] if all_of_them else spots[:2]))
        assert server_pids(cli.store) == []
        assert os.listdir(cli.store / "views" / "lowers") == []


def test_umount_wants_to_know_what(cli, spots):
    assert "give directories to unmount, or --all" in cli.fails(2, "umount")
    assert "give directories to unmount, or --all" in cli.fails(2, "umount", "--all", spots[0])
    assert "no view of this store" in cli.fails(3, "umount", spots[0])


@pytest.fixture
def damaged(cli, spots):
    """Three views, the record of the second of which is damaged."""
    for spot in spots:
        cli.ok("mount", "--rw", "web:1", spot)
    view_id = views(cli)[str(spots[1])]["view_id"]
    (cli.store / "views" / f"{view_id}.json").write_text("{")
    return view_id


def test_a_damaged_record_does_not_hide_the_other_views(cli, spots, damaged):
    listed = cli("mounts", "-q")
    assert listed.lines == [str(spots[0]), str(spots[2])]
    assert listed.code == 15
    assert f"the record of view {damaged} cannot be read" in listed.err
    assert f"hint: give it up: layerstore umount {damaged}" in listed.err
    assert [view["target"] for view in cli("mounts", "--json").json()] == listed.lines
    # gc knows not what that view needs; it says how to go on.
    assert f"layerstore umount {damaged} gives it up" in cli.fails(10, "gc")
    cli.ok("umount", spots[0])
    assert (spots[1] / "etc" / "motd").read_text() == "hello\n"


@pytest.mark.parametrize("how", ["by id", "by directory", "all"])
def test_a_view_with_a_damaged_record_is_given_up(cli, spots, damaged, how):
    (spots[1] / "mine").write_text("mine")
    words = {"by id": damaged, "by directory": spots[1], "all": "--all"}
    result = cli.ok("umount", words[how])
    assert "is given up" in result.err
    (upper,) = (cli.store / "uppers").glob(f"{damaged}-*")
    assert f"note: its writable layer stays: {upper}" in result.err
    assert (upper / "upper" / "mine").read_text() == "mine"
    assert os.listdir(spots[1]) == []
    cli.ok("mounts")
    cli.ok("gc")
    cli.ok("umount", "--all")
    assert [path.name for path in (cli.store / "views").glob("*.json")] == []
    cli.ok("rm", "web:1")


def test_giving_up_says_who_keeps_it_busy(cli, spots, damaged):
    with (spots[1] / "etc" / "motd").open():
        message = cli("umount", damaged).err
        assert "is busy" in message
        assert str(os.getpid()) in message
    cli.ok("umount", damaged)


def test_an_image_goes_while_a_record_is_damaged(cli, spots, damaged, tmp_path):
    (tmp_path / "other").mkdir()
    cli.ok("import", tmp_path / "other", "-t", "other:1")
    cli.ok("rm", "other:1")
    cli.fails(4, "rm", "web:1")  # the others show it


def test_snapshots_of_containerd_are_listed_and_left_alone(cli, spots):
    paths = StorePaths(str(cli.store))
    cli.ok("mount", "web:1", spots[0])
    for number, kind in ((7, "view"), (123, "active")):  # one is as long as the id of a view
        write_record(
            paths,
            Snapshot(number=number, key=f"key-{number}", kind=kind, created_ns=1, updated_ns=1,
                     has_upper=kind == "active"),
        )  # fmt: skip
    view, *shown = json.loads(cli.ok("mounts", "--format", "json").out)
    assert view["target"] == str(spots[0])
    assert [(each["view_id"], each["mode"], each["key"]) for each in shown] == [
        ("snapshot-7", "ro", "key-7"),
        ("snapshot-123", "rw", "key-123"),
    ]
    _, first, *rest = cli.ok("mounts").lines
    assert first.split()[1] == "view"
    assert [line.split()[:3] for line in rest] == [
        ["snapshot-7", "snapshot", "key-7"],
        ["snapshot-123", "snapshot", "key-123"],
    ]
    assert cli.ok("mounts", "-q").lines == [str(spots[0])]
    for name in ("snapshot-7", "snapshot-123"):
        assert f"{name} is a snapshot of containerd's" in cli.fails(4, "umount", name)
    cli.ok("umount", "--all")
    assert {"snapshot-7.json", "snapshot-123.json"} <= set(os.listdir(paths.views))
    damaged = cli.store / "views" / "snapshot-7.json"
    damaged.write_text("{")
    assert f"{damaged} is damaged" in cli.fails(10, "mounts")
