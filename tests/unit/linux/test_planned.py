"""Mounts as data: there and back, in others' words, and what is none."""

from __future__ import annotations

import json

import pytest

from layerstore.errors import InputError, UnsupportedError
from layerstore.linux.idmaps import parse_id_map
from layerstore.linux.mounts import Overlay
from layerstore.linux.planned import (
    Mount,
    command_line,
    describe_bind,
    describe_overlay,
    execute,
    flags_of,
    from_json,
    to_json,
    to_oci,
)

FULL = Overlay(("/a", "/b"), "/u/upper", "/u/work", ("xino=on", "userxattr"), ("/objects",))


def test_there_and_back_as_json() -> None:
    idmap = parse_id_map(["0:100000:65536"])
    for mount in (
        describe_overlay(FULL, "/t", ("ro", "nosuid"), idmap),
        describe_overlay(Overlay(("/odd,:\\\udcff",)), "/t"),
        describe_bind("/from", "/to", ("nodev",)),
    ):
        assert from_json(json.loads(json.dumps(to_json(mount)))) == mount


def test_in_the_words_of_runtimes_and_of_mount() -> None:
    overlay = describe_overlay(FULL, "/t", ("nosuid", "nodev"))
    options = [
        "nosuid", "nodev", "lowerdir=/a:/b::/objects", "upperdir=/u/upper", "workdir=/u/work",
        "xino=on", "userxattr",
    ]  # fmt: skip
    assert to_oci(overlay) == {
        "destination": "/t",
        "type": "overlay",
        "source": "layerstore",
        "options": options,
    }
    words = ["mount", "-t", "overlay", "-o", ",".join(options), "--", "layerstore", "/t"]
    assert command_line(overlay) == words
    bind = describe_bind("/from", "/to", ("ro",))
    assert command_line(bind) == ["mount", "-t", "none", "-o", "bind,ro", "--", "/from", "/to"]
    assert to_oci(bind)["type"] == "bind"


@pytest.mark.parametrize(
    "mount",
    [
        describe_overlay(Overlay(("/with,comma",)), "/t"),
        describe_overlay(Overlay(("/a",), data=("/with:colon",)), "/t"),
        describe_overlay(Overlay(tuple(f"/{n:0100}" for n in range(60))), "/t"),
        describe_overlay(FULL, "/t", (), parse_id_map(["0:1:5"])),
    ],
    ids=["comma", "colon", "too long", "other owners"],
)
def test_what_words_cannot_say(mount: Mount) -> None:
    with pytest.raises(UnsupportedError) as caught:
        command_line(mount)
    assert "execute" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fstype", 5), ("flags", "ro"), ("flags", [1]), ("options", [["a"]]), ("options", {}),
        ("options", [["a", None]]), ("idmap", ["0"]), ("idmap", None), ("extra", ""),
    ],
)  # fmt: skip
def test_json_of_no_mount(field: str, value: object) -> None:
    with pytest.raises(InputError):
        from_json({**to_json(describe_bind("/a", "/b")), field: value})


@pytest.mark.parametrize("value", [None, [], {}, "x"])
def test_other_json(value: object) -> None:
    with pytest.raises(InputError, match="fields"):
        from_json(value)


@pytest.mark.parametrize(
    "mount",
    [
        Mount("ext4", "/dev/null", "/nowhere"),
        Mount("overlay", "x", "/nowhere"),
        Mount("overlay", "x", "/nowhere", (), (("lowerdir+", "/a"), ("upperdir", "/b"))),
        Mount("bind", "/", "/nowhere", ("rw",)),
    ],
    ids=["another type", "no lower", "no work directory", "another flag"],
)
def test_what_is_not_made(mount: Mount) -> None:
    with pytest.raises(InputError):
        execute(mount)


def test_words_change_what_is_forbidden() -> None:
    assert flags_of([], ("nosuid", "nodev")) == ("nosuid", "nodev")
    assert flags_of(["suid", "dev"], ("nosuid", "nodev")) == ()
    assert flags_of(["noexec", "suid", "nosuid"], ("nosuid", "nodev")) == (
        "nodev",
        "noexec",
        "nosuid",
    )
    for word in ("", "rw", "bind", "suid,dev"):
        with pytest.raises(InputError, match="no mount option"):
            flags_of([word], ())
