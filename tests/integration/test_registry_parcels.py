"""Parcels in Debian's docker-registry: the next version is fetched in part, by whoever can."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Cli
from tests.support.registry_peers import (
    SECRET,
    USER,
    Server,
    docker_registry,
    needs_registry,
    skopeo,
)
from tests.support.running import wait_until
from tests.support.store import noise, text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = needs_registry


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as made:
        Cli(made.home / "none").ok(
            "login", "-u", USER, "--password-stdin", made.name,
            stdin=SECRET.encode(), **made.environment,
        )  # fmt: skip
        yield made


def version(number: int) -> dict[str, bytes]:
    """Files of an image: most are the same in the next one, some change a little."""
    files = {f"usr/lib/same{n}": noise(n, 30_000) for n in range(30)}
    for n in range(3):
        data = bytearray(noise(f"changing{n}", 700_000))
        for change in range(number):
            data[change * 50_000 : change * 50_000 + 30] = noise(f"{n}.{change}", 40)
        files[f"usr/lib/libx{n}.so"] = bytes(data)
    return files | {f"srv/only{number}": text(number, 4_000)}


def add(cli: Cli, place: Path, name: str, number: int) -> None:
    for path, data in version(number).items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(data)
    cli.ok("import", place, "-t", name)


@pytest.fixture(scope="module")
def pushed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Cli, list[str]]:
    """Three versions with parcels, each over the one before; the sender and the names."""
    root = tmp_path_factory.mktemp("sender")
    sender = Cli(root / "store")
    names = [f"{server.name}/team/app:{number}" for number in range(3)]
    for number, name in enumerate(names):
        add(sender, root / f"tree{number}", name, number)
        told = sender.ok("push", "--delta", name, **server.environment).err
        assert ("0 were there" in told) == (number == 0)
    return sender, names


def fetched(server: Server, since: int) -> int:
    """Bytes of blobs that the registry sent after so many characters of its log."""
    return sent(server.told()[since:])


def sent(log: str) -> int:
    found = re.findall(r'"GET /v2/\S+/blobs/\S+ HTTP/1.1" 20[06] (\d+)', log)
    return sum(map(int, found))


def wait_for_more_than(sent_bytes: int, server: Server, since: int) -> int:
    """Return what the registry sent to who is still connected, once it is more than that."""
    wait_until(lambda: sent(server.log.read_text()[since:]) > sent_bytes, "it")
    return sent(server.log.read_text()[since:])


def position(server: Server) -> int:
    return len(server.told())


def test_the_next_version_is_fetched_in_part(
    server: Server, pushed: tuple[Cli, list[str]], tmp_path: Path
) -> None:
    sender, names = pushed
    receiver, plain = Cli(tmp_path / "with"), Cli(tmp_path / "without")
    for cli, words in ((receiver, ()), (plain, ("--no-delta",))):
        cli.ok("pull", *words, names[0], **server.environment)
    at = position(server)
    result = receiver.ok("pull", names[1], **server.environment)
    assert "not used" not in result.err
    few, at = fetched(server, at), position(server)
    plain.ok("pull", "--no-delta", names[1], **server.environment)
    whole = fetched(server, at)
    assert 0 < few < whole / 20
    assert inspected(receiver, names[1]) == inspected(sender, names[1])
    assert inspected(receiver, names[1]) == inspected(plain, names[1])
    exported = [tmp_path / "a", tmp_path / "b"]
    for cli, target in zip((receiver, sender), exported, strict=True):
        cli.ok("export", names[1], "-o", target)
    assert exported[0].read_bytes() == exported[1].read_bytes()
    receiver.ok("check", "--read-data")


def inspected(cli: Cli, name: str) -> object:
    (found,) = json.loads(cli.ok("inspect", name).out)
    return {key: found[key] for key in ("Id", "RepoTags", "RepoDigests", "RootFS", "Size")}


def test_tags_of_parcels_are_no_images(
    server: Server, pushed: tuple[Cli, list[str]], tmp_path: Path
) -> None:
    _, names = pushed
    receiver = Cli(tmp_path / "store")
    result = receiver.ok(
        "pull", "--all-tags", names[0].rpartition(":")[0], "--json", **server.environment
    )
    assert sorted(row["name"] for row in json.loads(result.out)) == names


def test_a_version_comes_to_who_has_nothing(
    server: Server, pushed: tuple[Cli, list[str]], tmp_path: Path
) -> None:
    """The last one's parcels are differences two deep, and list the packs of all three."""
    sender, names = pushed
    receiver = Cli(tmp_path / "store")
    result = receiver.ok("pull", names[2], **server.environment)
    assert "not used" not in result.err
    assert inspected(receiver, names[2]) == inspected(sender, names[2])
    receiver.ok("check", "--read-data")


def test_what_came_as_parcels_is_pushed_under_its_digest(
    server: Server, pushed: tuple[Cli, list[str]], tmp_path: Path
) -> None:
    _, names = pushed
    receiver = Cli(tmp_path / "store")
    pulled = [
        json.loads(receiver.ok("pull", name, "--json", **server.environment).out)[0]["digest"]
        for name in names[:2]
    ]
    copy = f"{server.name}/other/copy:1"
    told = receiver.ok("push", names[1], copy, "--json", **server.environment)
    assert json.loads(told.out)[0]["digest"] == pulled[1]


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="no skopeo")
def test_others_see_a_normal_image(
    server: Server, pushed: tuple[Cli, list[str]], tmp_path: Path
) -> None:
    _, names = pushed
    credentials = f"{USER}:{SECRET}"
    found = json.loads(skopeo(server, "inspect", "--creds", credentials, f"docker://{names[1]}"))
    assert found["Name"] == f"{server.name}/team/app"
    target = f"oci:{tmp_path}/layout:1"
    skopeo(server, "copy", "--src-creds", credentials, f"docker://{names[1]}", target)
    index = json.loads((tmp_path / "layout/index.json").read_text())
    assert index["manifests"][0]["digest"] == found["Digest"]


def test_damaged_parcels_cost_time_only(
    server: Server, pushed: tuple[Cli, list[str]], tmp_path: Path
) -> None:
    """The registry does not look at what it stores: every pack and table is something else."""
    sender, names = pushed
    data = server.log.parent / "data/docker/registry/v2/blobs/sha256"
    kept = tmp_path / "kept"
    shutil.copytree(data, kept)
    try:
        for blob in data.glob("*/*/data"):
            raw = blob.read_bytes()
            if raw.startswith(b"\x89LSPACK\n"):
                blob.write_bytes(raw[:100] + bytes(len(raw) - 100))
        receiver = Cli(tmp_path / "store")
        result = receiver.ok("pull", names[1], **server.environment)
        assert "parcels are not used" in result.err
        assert inspected(receiver, names[1]) == inspected(sender, names[1])
        receiver.ok("check", "--read-data")
    finally:
        shutil.rmtree(data)
        shutil.copytree(kept, data)


@pytest.mark.root
@pytest.mark.fuse
def test_an_image_is_shown_before_it_is_here(
    server: Server, pushed: tuple[Cli, list[str]], tmp_path: Path
) -> None:
    _, names = pushed
    view, here = tmp_path / "view", Cli(tmp_path / "store")
    view.mkdir()
    at = position(server)
    here.ok("mount", "--from", "docker://", names[2], view, **server.environment)
    try:
        assert (view / "usr/lib/libx1.so").read_bytes() == version(2)["usr/lib/libx1.so"]
        # The view keeps its connection, and the registry logs what it sent a moment later.
        few = wait_for_more_than(0, server, at)
        assert (view / "srv/only2").read_bytes() == version(2)["srv/only2"]
        for path, data in version(2).items():
            assert (view / path).read_bytes() == data
        wait_for_more_than(few, server, at)
        (listed,) = json.loads(here.ok("mounts", "--json").out)
        assert listed["remote"].startswith(f"docker://{server.name}/team/app@sha256:")
    finally:
        here.ok("umount", view)


def test_an_image_without_parcels_is_not_shown(
    server: Server, pushed: tuple[Cli, list[str]], tmp_path: Path
) -> None:
    sender, names = pushed
    plain = f"{server.name}/team/plain:1"
    sender.ok("push", names[0], plain, **server.environment)
    (tmp_path / "view").mkdir()
    error = Cli(tmp_path / "store").fails(
        3, "mount", "--from", f"docker://{server.name}", "team/plain:1", tmp_path / "view",
        **server.environment,
    )  # fmt: skip
    assert "push --delta" in error


def test_an_image_of_a_registry_travels_in_a_bundle_as_it_came(
    server: Server, pushed: tuple[Cli, list[str]], tmp_path: Path
) -> None:
    _, names = pushed
    middle, last = Cli(tmp_path / "middle"), Cli(tmp_path / "last")
    pulled = [
        json.loads(middle.ok("pull", name, "--json", **server.environment).out)[0]["digest"]
        for name in names[:2]
    ]
    last.ok("pull", "--no-delta", names[0], **server.environment)
    bundle = tmp_path / "bundle"
    middle.ok("save", names[1], "--since", names[0], "-o", bundle, "--compression-level", "3")
    last.ok("load", "-i", bundle)
    assert inspected(last, names[1]) == inspected(middle, names[1])
    told = last.ok("push", names[1], f"{server.name}/by/hand:1", "--json", **server.environment)
    assert json.loads(told.out)[0]["digest"] == pulled[1]
