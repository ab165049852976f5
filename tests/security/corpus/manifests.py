"""Class G: manifests, indexes, configs and names of images.

Documents are given to the parsers, and to ``load`` in a layout that is sound otherwise;
index.json to ``save`` as well, which adds to a layout that is there.
"""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING

import pytest

from layerstore.digest import sha256_digest
from layerstore.errors import InputError, NotFoundError
from layerstore.formats import oci, strict_json
from layerstore.formats.oci_config import decode_config
from layerstore.formats.reference import parse_reference, parse_tag_name
from layerstore.formats.tree import Entry, Kind
from layerstore.image.layers.layer_writer import LayerItem
from layerstore.image.layouts.layout import save_oci_layout
from layerstore.image.layouts.loading import load_directory
from layerstore.progress import Silent
from tests.security.corpus.building import RUNC, built, hostile_base, link
from tests.security.corpus.entrances import EVERY_PLATFORM, fresh, layout_of
from tests.security.corpus.entrances import gzip as _gzip
from tests.security.corpus.model import Case, Way, case
from tests.support.layouts import Layout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from layerstore.store.store import Store
    from tests.security.corpus.model import Place

DIGEST = "sha256:" + "ab" * 32
MIB = 1 << 20


def layer_json(**changes: object) -> dict[str, object]:
    return {"mediaType": oci.LAYER_GZIP_TYPE, "digest": DIGEST, "size": 5, **changes}


def manifest_json(**changes: object) -> dict[str, object]:
    config = {"mediaType": oci.CONFIG_TYPE, "digest": DIGEST, "size": 2}
    plain = {"schemaVersion": 2, "mediaType": oci.MANIFEST_TYPE, "config": config,
             "layers": [layer_json()]}  # fmt: skip
    return {key: value for key, value in (plain | changes).items() if value is not ...}


def index_json(**changes: object) -> dict[str, object]:
    entry = {"mediaType": oci.MANIFEST_TYPE, "digest": DIGEST, "size": 5}
    plain = {"schemaVersion": 2, "mediaType": oci.INDEX_TYPE, "manifests": [entry]}
    return {key: value for key, value in (plain | changes).items() if value is not ...}


def config_json(**changes: object) -> dict[str, object]:
    plain = {"architecture": "amd64", "os": "linux",
             "rootfs": {"type": "layers", "diff_ids": [DIGEST]}}  # fmt: skip
    return {**plain, **changes}


def document(entry: str, name: str, verdict: str, value: object, *, says: str = "",
             decode: Callable[[bytes], object] = oci.decode_manifest) -> Case:  # fmt: skip
    """Return a case of one document; bytes are taken as they are."""

    raw = value if isinstance(value, bytes) else json.dumps(value).encode()

    def act(_place: Place) -> None:
        decode(raw)

    ways = [Way("parser", verdict, act, says)]
    if verdict != "S":  # what is accepted names blobs that are not there
        ways.append(Way("load", verdict, _loaded(raw, decode), says))
    return Case(entry, name, tuple(ways))


def _loaded(raw: bytes, decode: Callable[[bytes], object]) -> Callable[[Place], None]:
    """Load a layout whose image's manifest, index or config is this document."""

    def act(place: Place) -> None:
        layout = Layout(fresh(place))
        if decode is decode_config:
            config = layout.put(raw or b" ", oci.CONFIG_TYPE)
            plain = json.loads(raw)["rootfs"]["diff_ids"] if b"rootfs" in raw else []
            layers = [{"mediaType": oci.LAYER_GZIP_TYPE, "digest": DIGEST, "size": 5}]
            manifest = manifest_json(config=config, layers=layers * min(len(plain), 512))
            entry = layout.put_json(manifest, oci.MANIFEST_TYPE)
        else:
            kind = oci.INDEX_TYPE if decode is oci.decode_index else oci.MANIFEST_TYPE
            entry = layout.put(raw or b" ", kind)
        with place.store() as store:
            _load(store, layout.finish(("", entry)))

    return act


def _load(store: Store, root: Path) -> None:
    """Load a layout; that a blob is absent is no refusal of what a document says."""
    try:
        list(load_directory(store, root, EVERY_PLATFORM, Silent()))
    except NotFoundError as err:
        raise AssertionError("it was refused for a blob that is not there") from err


def _nested(depth: int) -> Callable[[Place], None]:
    """Load an index of an index, and so on; a true cycle would have to break SHA-256."""

    def act(place: Place) -> None:
        layout = Layout(fresh(place))
        entry = layout.image([b"\0" * 1024])
        for _ in range(depth):
            entry = layout.index(entry)
        with place.store() as store:
            _load(store, layout.finish(("", entry)))

    return act


def _other_layer(place: Place) -> None:
    """Load an image with a sound layer that is not the one its config names."""
    root = layout_of(fresh(place), _gzip(b"\0" * 1024), b"\0" * 2048)
    with place.store() as store:
        _load(store, root)


def config(entry: str, name: str, verdict: str, says: str = "", **changes: object) -> Case:
    return document(entry, name, verdict, config_json(**changes), decode=decode_config, says=says)


def index(entry: str, name: str, verdict: str, value: object, *, says: str = "") -> Case:
    """Return a case of an index: by its parser, and as the index.json that ``save`` finds."""

    def raw() -> bytes:
        return value if isinstance(value, bytes) else json.dumps(value).encode()

    def saved(place: Place) -> None:
        layout = place.scratch / "layout"
        (layout / "blobs" / "sha256").mkdir(parents=True)
        (layout / "oci-layout").write_bytes(b'{"imageLayoutVersion":"1.0.0"}')
        (layout / "index.json").write_bytes(raw())
        with place.store() as store:
            save_oci_layout(store, [], layout)

    ways = (
        Way("parser", verdict, lambda _place: oci.decode_index(raw()), says),
        Way("save", verdict, saved, says),
    )
    if verdict != "S":
        ways += (Way("load", verdict, _loaded(raw(), oci.decode_index), says),)
    return Case(entry, name, ways)


def _typed(place: Place) -> None:
    oci.decode_manifest(json.dumps(manifest_json()).encode(), media_type=oci.DOCKER_MANIFEST_TYPE)


def _wrong_blob(place: Place) -> None:
    oci.verify(b"blobs", oci.describe(b"blob", oci.CONFIG_TYPE))


def _wrong_digest(place: Place) -> None:
    oci.verify(b"blub", oci.describe(b"blob", oci.CONFIG_TYPE))


def _pair(count: int) -> Callable[[Place], None]:
    def act(_place: Place) -> None:
        rootfs = {"type": "layers", "diff_ids": [DIGEST] * count}
        two = manifest_json(layers=[layer_json()] * 2)
        manifest = oci.decode_manifest(json.dumps(two).encode())
        oci.check_pair(manifest, decode_config(json.dumps(config_json(rootfs=rootfs)).encode()))

    return act


def _tag(text: str) -> Callable[[Place], None]:
    return lambda _place: parse_tag_name(text)


def _credentials(_place: Place) -> None:
    with pytest.raises(InputError) as caught:
        parse_reference("user:hunter2@quay.io/app")
    assert "hunter2" not in str(caught.value)
    raise caught.value


# -- what an image's own files say -------------------------------------------------


def _workdir(text: str) -> Callable[[Place], None]:
    def act(place: Place) -> None:
        hostile_base(place, "evil", link("w", place.canary("directory")), working_dir=text)
        built(place, "FROM evil\nRUN echo x > here && pwd\n")

    return act


def _passwd_link(name: str) -> Callable[[Place], None]:
    def act(place: Place) -> None:
        hostile_base(place, "evil", link("etc/passwd", place.canary(name)))
        built(place, "FROM evil\nUSER daemon\nRUN id\n")

    return act


def _passwd_that_is_none(kind: Kind, line: str) -> Callable[[Place], None]:
    """The runtime opens the file, too: on a pipe it would wait for ever."""

    def act(place: Place) -> None:
        device = {"dev_major": 1, "dev_minor": 3} if kind is Kind.CHAR else {}
        hostile_base(
            place, "evil", LayerItem(Entry(path=b"etc/passwd", kind=kind, mode=0o755, **device))
        )
        built(place, f"FROM evil\n{line}\n")

    return act


def _passwd_of_a_gibibyte(place: Place) -> None:
    size = 1 << 30
    entry = Entry(path=b"etc/passwd", kind=Kind.FILE, mode=0o644, size=size)
    hostile_base(place, "evil", LayerItem(entry, _no_content, ((0, size),)))
    built(place, "FROM evil\nCOPY --from=evil --chown=daemon /bin/sh /x\n")


def _no_content() -> io.BytesIO:
    return io.BytesIO()


_BAD_DIGESTS = {
    "upper case": "sha256:" + "A" * 64, "short": "sha256:" + "a" * 63,
    "long": "sha256:" + "a" * 65, "NUL": "sha256:" + "a" * 63 + "\0", "md5": "md5:" + "a" * 32,
    "bare": "a" * 64, "empty": "", "newline": "sha256:" + "a" * 64 + "\n",
    "full width": "sha256:" + "\uff11" * 64,
}  # fmt: skip
_BAD_SIZES = ("0", "-1", str(2**63), "1.5", '"9"', "1e3", "true", "[]")
_BAD_JSON = {
    "byte order mark": b"\xef\xbb\xbf{}", "UTF-16": '{"a":1}'.encode("utf-16"),
    "NaN": b'{"a":NaN}', "infinity": b'{"a":-Infinity}', "text behind": b'{"a":1} x',
    "comma": b'{"a":1,}', "quotes": b"{'a':1}", "comment": b'{"a":1 /* no */}',
    "half a surrogate pair": b'{"a":"\\ud800"}', "not UTF-8": b'{"a":"\xff"}',
    "control character": b'{"a":"\n"}', "open string": b'"open', "nothing": b"",
}  # fmt: skip


def _json(entry: str, name: str, verdict: str, raw: bytes, says: str = "") -> Case:
    def act(_place: Place) -> None:
        strict_json.decode(raw, "document")

    return case(entry, name, verdict, act, entrance="parser", says=says)


_SIZED = json.dumps(manifest_json(layers=[layer_json(size=77777)]))
_CONTENT = b"content"
_EMBEDDED = layer_json(
    data=base64.b64encode(_CONTENT).decode(), digest=sha256_digest(_CONTENT), size=len(_CONTENT)
)


def _of_size(size: int) -> bytes:
    empty = json.dumps(manifest_json(annotations={"a": ""})).encode()
    return empty[:-3] + b"x" * (size - len(empty)) + empty[-3:]


CASES = [
    document("G01", "manifest", "R", manifest_json(manifests=[])),
    index("G01", "index", "R", index_json(layers=[])),
    document("G01", "case", "R", manifest_json(Layers=[])),
    document("G01", "case of a descriptor", "R", manifest_json(layers=[layer_json(Digest="x")])),
    document("G01", "long s", "R", manifest_json() | {"layer\u017f": []}),
    case("G02", "its descriptor says another", "R", _typed, entrance="parser"),
    document("G02", "index", "R", manifest_json(mediaType=oci.INDEX_TYPE)),
    document("G02", "text", "R", manifest_json(mediaType="text/html")),
    document("G03", "null", "R", manifest_json(mediaType=None)),
    document("G03", "absent", "R", manifest_json(mediaType=...)),
    document("G04", "layer", "R", manifest_json(layers=[layer_json(digest="sha256:../../x")])),
    config("G04", "diff id", "R",
           rootfs={"type": "layers", "diff_ids": ["sha256:../../etc/passwd"]}),
    *(document("G05", name, "R", manifest_json(layers=[layer_json(digest=digest)]))
      for name, digest in _BAD_DIGESTS.items()),
    document("G06", "layer", "R", manifest_json(layers=[layer_json(digest=DIGEST + "?x")])),
    *(document("G07", size, "R", _SIZED.replace("77777", size).encode()) for size in _BAD_SIZES),
    document("G07", "none", "R", manifest_json(layers=[{"mediaType": oci.LAYER_GZIP_TYPE,
                                                        "digest": DIGEST}])),
    case("G08", "size", "R", _wrong_blob, entrance="parser"),
    case("G08", "digest", "R", _wrong_digest, entrance="parser"),
    case("G09", "fewer", "R", _pair(1), entrance="parser"),
    case("G09", "more", "R", _pair(3), entrance="parser"),
    case("G09", "as many", "S", _pair(2), entrance="parser"),
    case("G10", "another layer", "R", _other_layer, entrance="load", says="its config says"),
    case("G28", "depth 3", "S", _nested(3), entrance="load"),
    *(case("G28", f"depth {depth}", "L", _nested(depth), entrance="load", says="nested")
      for depth in (4, 100)),
    _json("G11", "plain", "R", b'{"a":1,"a":2}'),
    _json("G11", "escaped", "R", b'{"b":{"a":1,"\\u0061":2}}'),
    *(_json("G12", name, "R", raw) for name, raw in _BAD_JSON.items()),
    _json("G13", "1e400", "R", b'{"a":1e400}'),
    _json("G13", "5,000 digits", "R", b'{"a":' + b"9" * 5000 + b"}"),
    _json("G13", "5,000 places", "R", b'{"a":0.' + b"9" * 5000 + b"}"),
    document("G14", "manifest", "R", manifest_json(schemaVersion=1)),
    document("G14", "fsLayers", "R", manifest_json(fsLayers=[])),
    document("G14", "version 3", "R", manifest_json(schemaVersion=3)),
    document("G15", "empty", "R", manifest_json(
        config={"mediaType": "application/vnd.oci.empty.v1+json", "digest": DIGEST, "size": 2})),
    document("G15", "layer type", "R", manifest_json(
        layers=[layer_json(mediaType="application/zip")])),
    document("G16", "metadata", "R", manifest_json(
        layers=[layer_json(urls=["http://169.254.169.254/latest"])]), says="never"),
    index("G16", "index", "R", index_json(manifests=[layer_json(urls=["file:///etc/passwd"])])),
    document("G17", "not base64", "R", manifest_json(layers=[layer_json(data="####")])),
    document("G17", "another", "R", manifest_json(
        layers=[layer_json(data=base64.b64encode(b"other").decode())])),
    document("G17", "right", "S", manifest_json(layers=[_EMBEDDED])),
    index("G18", "no architecture", "R", index_json(manifests=[layer_json(
        platform={"os": "linux"})])),
    index("G18", "a list", "R", index_json(manifests=[layer_json(platform=[])])),
    config("G19", "two colons", "R", config={"User": "0:0:0"}),
    *(case("G20", text.encode("unicode_escape").decode(), "R", _tag(text), entrance="names")
      for text in ("x:../y", "../x", "x:" + "t" * 129, "x:a b", "x:\u00e9", "x:\n", "a/../b",
                   "x:-a", "\u0430bc:1", "")),
    case("G21", "user and password", "R", _credentials, entrance="names"),
    config("G22", "more", "S", history=[{"created_by": "x"}] * 9),
    config("G22", "none", "S", history=[]),
    document("G23", "manifest", "S", manifest_json(layers=[layer_json(), layer_json()])),
    document("G24", "manifest", "S", manifest_json(layers=[])),
    config("G24", "config", "S", rootfs={"type": "layers", "diff_ids": []}),
    document("G25", "128", "S", manifest_json(layers=[layer_json()] * 128)),
    document("G25", "512", "S", manifest_json(layers=[layer_json()] * 512)),
    config("G25", "512 diff ids", "S", rootfs={"type": "layers", "diff_ids": [DIGEST] * 512}),
    *(case("G26", text, "S", _workdir(text), entrance="build", needs=RUNC)
      for text in ("../../..", "a/../../..")),
    case("G26", "symlink within the image", "S", _workdir("/bin/../etc"), entrance="build",
         needs=RUNC),
    case("G26", "symlink to the host", "R", _workdir("/w"), entrance="build", needs=RUNC),
    case("G27", "fifo", "R", _passwd_link("fifo"), entrance="build", needs=RUNC),
    case("G27", "file", "R", _passwd_link("file"), entrance="build", needs=RUNC),
    *(case("G27", f"{kind.name.lower()} of the image, {line}", verdict,
           _passwd_that_is_none(kind, line), entrance="build", needs=RUNC, says=says)
      for kind in (Kind.FIFO, Kind.CHAR, Kind.DIR)
      for line, verdict, says in (
          ("COPY --from=evil --chown=5 /bin/sh /x", "S", ""),
          ("COPY --from=evil --chown=daemon /bin/sh /x", "R", "knows no user"),
          ("USER 5\nRUN true", "R", "passwd of the image"),
          ("USER daemon\nRUN true", "R", "passwd of the image"),
      )),
    index("G29", "100,000", "L", index_json(manifests=[layer_json()] * 100_000)),
    index("G29", "10,001 short ones", "L", index_json(manifests=[{}] * 10_001), says="10001"),
    document("G30", "manifest", "L", manifest_json(layers=[layer_json()] * 513), says="513"),
    config("G30", "config", "L", rootfs={"type": "layers", "diff_ids": [DIGEST] * 513}, says="513"),
    _json("G31", "lists", "L", b"[" * 100_000 + b"]" * 100_000, "deeper"),
    _json("G31", "objects", "L", b'{"a":' * 100_000, "deeper"),
    _json("G31", "100", "S", b"[" * 100 + b"]" * 100),
    _json("G31", "101", "L", b"[" * 101 + b"]" * 101, "deeper"),
    _json("G31", "in a string", "S", b'["' + b"[" * 1000 + b'"]'),
    document("G32", "4 MiB less 1", "S", _of_size(4 * MIB - 1)),
    document("G32", "4 MiB", "S", _of_size(4 * MIB)),
    document("G32", "4 MiB and 1", "L", _of_size(4 * MIB + 1), says="limit"),
    index("G32", "index of 4 MiB and 1", "L", json.dumps(index_json(
        annotations={"a": "x" * 4 * MIB})).encode(), says="limit"),
    document("G33", "10 MiB", "L", manifest_json(annotations={"a": "x" * 10 * MIB}), says="limit"),
    case("G34", "sparse", "L", _passwd_of_a_gibibyte, entrance="build"),
    config("G35", "Cmd", "S", config={"Cmd": "sh", "Entrypoint": "x"}),
    config("G35", "Env", "S", config={"Env": ["NOTHING", "=x", "A=b=c", ""]}),
    config("G36", "nulls", "S", config={"Cmd": None, "Env": None, "Labels": None, "Volumes": None,
                                        "Healthcheck": None, "OnBuild": None}, history=None),
    config("G36", "year 0", "S", created="0000-01-01T00:00:00Z"),
    config("G36", "year 9999", "S", created="9999-12-31T23:59:59.999999999Z"),
    config("G36", "year 10000", "R", created="10000-01-01T00:00:00Z"),
]  # fmt: skip
