"""Where two builds begin to differ: the step, the file, the field, the byte."""

from __future__ import annotations

import io
import os

import pytest

from layerstore.build.api import build
from layerstore.build.cache_exchange import CacheExport, CacheKind
from layerstore.build.dockerfile.syntax import SourceSpan
from layerstore.build.graph import MkdirOp
from layerstore.build.record import MadeStep
from layerstore.build.reproducing_hints import hint_for
from layerstore.build.request import BuildRequest
from layerstore.build.verify import FieldDifference, first_difference, verify
from layerstore.cli.build.verify import verified
from layerstore.formats.tree import Entry, Kind
from layerstore.image.layers.layer_item import LayerItem
from layerstore.image.layers.layer_writer import write_layer
from tests.support.build import RecordingUi, builder  # noqa: F401

NS = 10**9
OP = MkdirOp("/", "")
EPOCH = "1970-01-01T00:00:0"


class Made:
    """What two builds are compared by."""

    def __init__(self, *diff_ids):
        self.made = tuple(
            MadeStep(
                f"step {n}", SourceSpan("Dockerfile", n + 1, 1, 9), MkdirOp("/", ""), (), d, ()
            )
            for n, d in enumerate(diff_ids)
        )


@pytest.fixture
def layer(builder):  # noqa: F811
    def write(*items, whiteouts=()):
        with builder.store.begin("test") as session:
            return write_layer(session, builder.store, items, whiteouts=whiteouts).diff_id

    return write


def file(path, content=b"text", **fields):
    entry = Entry(path=path, kind=Kind.FILE, size=len(content), mode=fields.pop("mode", 0o644),
                  **fields)  # fmt: skip
    return LayerItem(entry, lambda: io.BytesIO(content))


def compared(builder, *pair):  # noqa: F811
    return first_difference(builder.store, Made(None, pair[0], None), Made(None, pair[1], None))


def test_fields_of_the_first_file(builder, layer):  # noqa: F811
    directory = LayerItem(Entry(path=b"a", kind=Kind.DIR, mode=0o755, mtime_ns=1))
    found = compared(
        builder,
        layer(directory, file(b"a/f", mtime_ns=NS), file(b"z", b"1"), file(b"same")),
        layer(
            directory._replace(entry=Entry(path=b"a", kind=Kind.DIR, mode=0o700)),
            file(b"a/f", mtime_ns=2 * NS, uid=7, mode=0o4755), file(b"z", b"2"), file(b"same"),
        ),
    )  # fmt: skip
    assert (found.step, found.place) == ("step 1", "Dockerfile:2:1")
    assert found.path == "/a/f"
    assert found.fields == (
        FieldDifference("mode", "0644", "4755"),
        FieldDifference("uid", "0", "7"),
        FieldDifference("mtime", f"{EPOCH}1.000000000Z", f"{EPOCH}2.000000000Z"),
    )
    assert (found.other_paths, found.path_count) == (("/z", "/a"), 3)


def test_the_first_byte_of_contents(builder, layer):  # noqa: F811
    shared = os.urandom(600_000)
    one = shared + b"built at 2026-01-01 10:00:00\n"
    two = shared + b"built at 2026-01-01 10:00:01\nmore"
    found = compared(builder, layer(file(b"f", one)), layer(file(b"f", two)))
    size, content = found.fields
    assert size == ("size", str(len(one)), str(len(two)), None)
    assert content.offset == len(shared) + len("built at 2026-01-01 10:00:0")
    assert content.first.endswith(r"2026-01-01 10:00:00\n'")
    assert content.second.endswith(r"2026-01-01 10:00:01\nmore'")
    assert "a time seems to be in the file" in found.hint
    found = compared(builder, layer(file(b"f", shared)), layer(file(b"f", shared + b"!")))
    assert found.fields[1].offset == len(shared)


def test_files_that_only_one_build_has(builder, layer):  # noqa: F811
    found = compared(builder, layer(file(b"tmp/x1")), layer(file(b"tmp/x2")))
    assert (found.path, found.fields) == (
        "/tmp/x1", (FieldDifference("presence", "a file", "absent"),),
    )  # fmt: skip
    assert "random names" in found.hint
    found = compared(builder, layer(whiteouts=[b"g"]), layer(file(b"g")))
    assert found.fields == (FieldDifference("presence", "removed", "a file"),)
    found = compared(builder, layer(file(b"g")), None)
    assert (found.path, found.fields) == (
        "",
        (FieldDifference("presence", "changes", "no changes"),),
    )


def test_links_and_kinds(builder, layer):  # noqa: F811
    link = LayerItem(Entry(path=b"f", kind=Kind.SYMLINK, mode=0o777, target=b"a\xff"))
    other = LayerItem(Entry(path=b"f", kind=Kind.SYMLINK, mode=0o777, target=b"b"))
    assert compared(builder, layer(link), layer(other)).fields == (
        FieldDifference("target", "a\ufffd", "b"),
    )
    kinds = [field.field for field in compared(builder, layer(link), layer(file(b"f"))).fields]
    assert kinds[:2] == ["kind", "mode"]


def test_many_paths_are_counted(builder, layer):  # noqa: F811
    found = compared(
        builder,
        layer(*(file(f"f{n:03}".encode(), b"1") for n in range(100))),
        layer(*(file(f"f{n:03}".encode(), b"2") for n in range(100))),
    )
    assert (found.path, found.path_count, len(found.other_paths)) == ("/f000", 100, 20)


@pytest.mark.parametrize(
    ("path", "word"),
    [
        (b"usr/lib/python3/x.cpython-311.pyc", "SOURCE_DATE_EPOCH"),
        (b"var/lib/apt/lists/x", "apt/lists"),
        (b"var/log/dpkg.log", "logs"),
        (b"x.tar.gz", "gzip -n"),
        (b"etc/shadow-", "passwords"),
    ],
)
def test_hints(path, word):
    assert word in hint_for(path, ["content"], [])


def test_no_hint_where_nothing_is_known():
    assert hint_for(b"opt/x", ["content"], [FieldDifference("content", "'a'", "'b'", 0)]) is None


def test_a_build_that_is_the_same_twice(builder):  # noqa: F811
    """No real time is waited for: the clock and the wait are handed in."""
    builder.write({"f": "x"})
    waited = []
    request = BuildRequest(
        context=builder.context, dockerfile_text=b"FROM scratch\nCOPY f /\nWORKDIR /d\n",
        dockerfile=builder.directory / "Dockerfile", tags=("kept",),
    )  # fmt: skip
    ui = RecordingUi()
    found = verify(builder.store, request, ui, now_s=lambda: 1_700_000_000.25, wait=waited.append)
    assert found.difference is None
    assert waited == [0.75]
    assert found.request.source_date_epoch == 1_700_000_000
    assert len(ui.ran) == 4
    assert builder.store.images() == []


def test_nothing_leaves_the_store_while_it_is_verified(builder, tmp_path):  # noqa: F811
    builder.write({"f": "x"})
    target = tmp_path / "cache"
    request = BuildRequest(
        context=builder.context, dockerfile_text=b"FROM scratch AS only\nCOPY f /\n",
        dockerfile=builder.directory / "Dockerfile", no_cache_stages=("only",),
        cache_to=(CacheExport(CacheKind.DIRECTORY, str(target)),),
    )  # fmt: skip
    request = verified(builder.store, request, RecordingUi(), as_json=False)
    assert not target.exists()
    ui = RecordingUi()
    build(builder.store, request, ui)
    assert ui.ran == []  # what was verified is what is given out
    assert target.exists()
