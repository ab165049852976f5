"""Helpers for tests of the builder: real bases, small contexts, and what images hold."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from layerstore.build.api import build
from layerstore.build.request import BuildRequest
from layerstore.build.ui import SilentUi
from layerstore.formats.oci_config import ContainerConfig, History, ImageConfig
from layerstore.formats.tree import Entry, Kind
from layerstore.image.images import create_image, load_config
from layerstore.image.layers.layer_item import LayerItem
from layerstore.image.layers.layer_writer import write_layer
from layerstore.image.trees.stack import load_root, walk
from layerstore.store.store import Store
from tests.support.cache import made_by_one

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layerstore.build.dockerfile.syntax import Notice
    from layerstore.build.graph import Vertex
    from layerstore.build.request import BuildResult
    from layerstore.build.solver import Made, Result
    from layerstore.build.ui import Reason, StepOutcome
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.records import CacheRecord

BASE_TIME_S = 1_500_000_000
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

needs_runc = [
    pytest.mark.root,
    pytest.mark.fuse,
    pytest.mark.runc,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no /dev/fuse"),
    pytest.mark.skipif(
        shutil.which("runc") is None and shutil.which("crun") is None,
        reason="neither runc nor crun is installed",
    ),
]

_APPLETS = (
    "sh ls cat echo mkdir rm ln touch chmod chown id env sleep pwd find stat sed grep true false",
    "head wc sort cp mv date hostname mount dd sha256sum xargs test printf seq tee ip readlink",
)
_PASSWD = b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
_GROUP = b"root:x:0:\ndaemon:x:1:\nadm:x:4:daemon\n"


class RecordingUi(SilentUi):
    """Keeps what a build said."""

    def __init__(self) -> None:
        self.cached: list[str] = []
        self.ran: list[str] = []
        self.failures: list[str] = []
        self.text = b""
        self.notices: list[str] = []
        self.messages: list[str] = []
        self.reasons: list[tuple[str, str]] = []
        self.because: list[str] = []

    def explained(self, number: int, label: str, reasons: Sequence[Reason]) -> None:
        self.reasons += [(each.kind, each.name) for each in reasons]
        self.because += [each.text for each in reasons]

    def finished(self, number: int, label: str, outcome: StepOutcome) -> None:
        (self.cached if outcome.cached else self.ran).append(label.partition("] ")[2])

    def failed(self, number: int, label: str) -> None:
        self.failures.append(label.partition("] ")[2])

    def output(self, number: int, data: bytes) -> None:
        self.text += data

    def warning(self, notice: Notice) -> None:
        self.notices.append(notice.message)

    def message(self, text: str) -> None:
        self.messages.append(text)


class File(NamedTuple):
    """What a test wants to know of a file in an image."""

    kind: Kind
    mode: int
    uid: int
    gid: int
    content: bytes
    target: bytes
    mtime_ns: int


def busybox() -> Path:
    """Return a static busybox: Debian's busybox-static, installed or fetched; else skip."""
    installed = shutil.which("busybox")
    if installed is not None and _is_static(Path(installed)):
        return Path(installed)
    with made_by_one("busybox") as cached:
        if not _is_static(cached):
            _fetch_busybox(cached)
    return cached


def _is_static(program: Path) -> bool:
    try:
        data = program.read_bytes()
    except OSError:
        return False
    return data.startswith(b"\x7fELF") and b"/lib64/ld-linux" not in data


def _fetch_busybox(target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        os.chmod(scratch, 0o755)
        try:
            for command in (
                ["apt-get", "download", "busybox-static"],
                ["sh", "-c", "dpkg-deb -x busybox-static_*.deb ."],
            ):
                subprocess.run(command, cwd=scratch, check=True, capture_output=True, timeout=60)
            fetched = next(Path(scratch).glob("**/bin/busybox"))
        except (OSError, subprocess.SubprocessError, StopIteration) as err:
            pytest.skip(f"no static busybox: install busybox-static, or let apt fetch it ({err})")
        staged = target.with_suffix(f".{os.getpid()}")
        shutil.copy(fetched, staged)
        staged.rename(target)


def add_base(store: Store, name: str = "box") -> ImageRecord:
    """Store an image that holds a real shell and the usual files."""
    program = busybox()
    items = [
        _directory(b"bin"), _directory(b"etc"), _directory(b"root", 0o700),
        _directory(b"tmp", 0o1777), _directory(b"usr"), _directory(b"usr/bin"),
        _file(b"etc/passwd", _PASSWD), _file(b"etc/group", _GROUP),
        LayerItem(
            Entry(
                path=b"bin/busybox", kind=Kind.FILE, mode=0o755, size=program.stat().st_size,
                mtime_ns=BASE_TIME_S * 10**9,
            ),
            lambda: program.open("rb"),
        ),
    ]  # fmt: skip
    items += [
        LayerItem(Entry(path=b"bin/" + applet.encode(), kind=Kind.HARDLINK, target=b"bin/busybox"))
        for applet in " ".join(_APPLETS).split()
    ]
    return add_image(store, name, items, cmd=("sh",))


def add_image(store: Store, name: str, items: list[LayerItem], **config: object) -> ImageRecord:
    """Store an image of one layer."""
    with store.begin("test base") as session:
        layer = write_layer(session, store, items)
        container = ContainerConfig(**{"env": (PATH,), **config})  # type: ignore[arg-type]
        return create_image(
            session,
            ImageConfig(architecture="amd64", config=container),
            [layer.diff_id],
            [History(created="2020-01-01T00:00:00Z", created_by="base")],
            names=[name],
            created="2020-01-01T00:00:00Z",
        )


def _directory(path: bytes, mode: int = 0o755) -> LayerItem:
    return LayerItem(Entry(path=path, kind=Kind.DIR, mode=mode, mtime_ns=BASE_TIME_S * 10**9))


def _file(path: bytes, content: bytes, mode: int = 0o644) -> LayerItem:
    entry = Entry(
        path=path, kind=Kind.FILE, mode=mode, size=len(content), mtime_ns=BASE_TIME_S * 10**9
    )
    return LayerItem(entry, lambda: io.BytesIO(content))


class Builder:
    """Builds in one store from contexts below one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = Store.open(directory / "store", create=True)
        self.context = directory / "context"
        self.context.mkdir()
        self.ui = RecordingUi()

    def write(self, files: Mapping[str, str | bytes]) -> None:
        """Put files into the context."""
        for name, content in files.items():
            path = self.context / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def build(self, dockerfile: str | None, **options: object) -> BuildResult:
        """Build; what happened is in ``ui``, which begins anew. None is the context's own file."""
        self.ui = RecordingUi()
        text = None if dockerfile is None else dockerfile.encode()
        request = BuildRequest(
            context=self.context,
            dockerfile=None if text is None else self.directory / "Dockerfile",
            dockerfile_text=text,
            **options,  # type: ignore[arg-type]
        )
        return build(self.store, request, self.ui)

    def files(self, result: BuildResult) -> dict[str, File]:
        """Return everything in the image."""
        return tree_of(self.store, result.image)

    def config(self, result: BuildResult) -> ImageConfig:
        """Return the image's config."""
        return load_config(self.store, result.image_id)

    def history(self, result: BuildResult) -> list[tuple[str, bool]]:
        """Return (created_by, has a layer) of the steps above the base."""
        steps = self.config(result).history
        return [
            (step.created_by, not step.empty_layer) for step in steps if step.created_by != "base"
        ]


def tree_of(store: Store, image: ImageRecord) -> dict[str, File]:
    """Return every path of an image."""
    found = {}
    for path, node in walk(load_root(store, image.layers)):
        entry = node.entry
        refs = tuple((length, chunk) for length, chunk in entry.extents if chunk is not None)
        found[os.fsdecode(path)] = File(
            entry.kind, entry.mode, entry.uid, entry.gid, store.read_refs(refs) if refs else b"",
            entry.target, entry.mtime_ns,
        )  # fmt: skip
    return found


@pytest.fixture
def builder(tmp_path: Path):
    made = Builder(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def box(builder: Builder) -> Builder:
    """A builder whose store holds the image ``box``."""
    add_base(builder.store)
    return builder


class SilentNotes:
    """Notes of a solver that nobody reads."""

    def planned(self, vertices: Mapping[int, Vertex]) -> None:
        """Ignore it."""

    def hit(self, number: int, vertex: Vertex, keys: Sequence[str], record: CacheRecord) -> None:
        """Ignore it."""

    def missed(
        self, number: int, vertex: Vertex, inputs: Sequence[Result], keys: Sequence[str]
    ) -> None:
        """Ignore it."""

    def made(
        self, number: int, vertex: Vertex, keys: Sequence[str], made: Made, *,
        seconds: float, created: float,
    ) -> list[bytes]:  # fmt: skip
        return [b""] * len(keys)
