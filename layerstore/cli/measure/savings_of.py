"""Images that are in no store, for ``savings --of``: in one that lives as long as the question.

So their numbers are those that they would have after an import, and not an estimate of them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from layerstore.cli.clock import now_rfc3339
from layerstore.cli.output import write_note
from layerstore.errors import (
    FormatError,
    InputError,
    LimitExceededError,
    NotFoundError,
    UnsafeContentError,
)
from layerstore.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.image.importing import ImportSpec
    from layerstore.peers.engine import Engine
    from layerstore.progress import Progress

_LAYOUT_MARKS = ("oci-layout", "index.json")
_PATTERN = re.compile(r"[*?\[]")
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")
_ENDINGS = re.compile(r"\.(tar|tgz|txz|tzst|gz|xz|zst|bz2)$")


@contextlib.contextmanager
def store_of(
    sources: Sequence[str], host: str | None, work: str, progress: Progress
) -> Iterator[tuple[Store, list[str]]]:
    """Give a store that holds images from elsewhere, and their ids in order.

    Args:
        sources: Archives, OCI layouts, root file systems as tars or directories, and
            ``docker:NAME``, ``podman:NAME`` with ``*`` for any text.
        host: Where the engine listens; None for where it usually does.
        work: Where the store is made and removed again.
        progress: Hears bytes.

    Raises:
        InputError: A source that cannot be one.
        NotFoundError: Something is not there.
        LayerstoreError: As ``load`` and ``import`` raise.
    """
    from layerstore.measure.scratch import scratch_directory

    _refuse_missing(sources)
    with scratch_directory(work) as path:
        found: list[str] = []
        with Store.open(f"{path}/store", create=True) as store:
            for source in sources:
                found += _taken(store, source, host, progress)
        # What a directory looked like is remembered for its next import: there will be none, and
        # whether it is remembered at all depends on how long ago it was written.
        shutil.rmtree(f"{path}/store/scans", ignore_errors=True)
        # Anew, without the log of who wrote: as who asks a store that was filled before.
        with Store.open(f"{path}/store") as store:
            yield store, list(dict.fromkeys(found))


def _refuse_missing(sources: Sequence[str]) -> None:
    for source in sources:
        if _engine_of(source) is None and not os.path.exists(source):
            raise NotFoundError(
                f"{source} does not exist",
                hint="name an archive, a directory, docker:NAME or podman:NAME",
            )


def _engine_of(source: str) -> str | None:
    from layerstore.cli.transfer.engines import ENGINES

    engine, colon, name = source.partition(":")
    if not colon or engine not in ENGINES:
        return None
    if not name:
        raise InputError(f"{source} names no image", hint=f"{engine}:NAME, or {engine}:* for all")
    return engine


def _taken(store: Store, source: str, host: str | None, progress: Progress) -> Iterator[str]:
    """Yield the ids of the images of one source."""
    engine = _engine_of(source)
    if engine is not None:
        yield from _from_engine(store, engine, source.partition(":")[2], host, progress)
    elif os.path.isdir(source):
        if any(os.path.exists(f"{source}/{mark}") for mark in _LAYOUT_MARKS):
            yield from _loaded(store, source, progress)
        else:
            yield _imported_directory(store, source, progress)
    elif _holds_images(store, source):
        yield from _loaded(store, source, progress)
    else:
        yield _imported_tar(store, source, progress)


def _from_engine(
    store: Store, engine: str, name: str, host: str | None, progress: Progress
) -> Iterator[str]:
    from layerstore.cli.transfer.copy_images import serving
    from layerstore.cli.transfer.engines import open_engine
    from layerstore.peers.engine_images import take_images

    with open_engine(engine, host) as there:
        names = _matching(there, name) if _PATTERN.search(name) else [name]
        for taken in take_images(store, there, names, serving(""), progress):
            yield taken.image.image_id


def _matching(engine: Engine, pattern: str) -> list[str]:
    """Return the names that match, of the oldest image first; of untagged images the ids.

    Those match what everything matches: they are on the engine's disk like all others. podman
    writes their configs anew when it exports them, so they are no longer what their ids say.
    """
    from layerstore.formats.reference import full_name

    images = sorted(engine.images(), key=lambda image: image.created)
    if engine.is_podman:
        nameless = sum(not image.names for image in images)
        if nameless and pattern == "*":
            write_note(
                f"left out: {nameless} image{'s' * (nameless != 1)} without a name, which "
                "podman does not export as they are; podman tag gives them one"
            )
        images = [image for image in images if image.names]
    names = [
        name
        for image in images
        for name in image.names or (image.image_id,)
        if fnmatchcase(name, pattern)
        or (image.names and fnmatchcase(name.rpartition(":")[0], pattern))
    ]
    if engine.is_podman:  # to which a short name is first of all one of localhost/
        names = [full_name(name) for name in names]
    if not names:
        raise NotFoundError(
            f"{engine.name} has no image that matches {pattern}",
            hint="layerstore images --of lists them",
        )
    return names


def _loaded(store: Store, source: str, progress: Progress) -> Iterator[str]:
    from layerstore.cli.transfer.copy_images import serving
    from layerstore.image.exchange.originals import Originals
    from layerstore.image.layouts.loading import Choice, load_directory, load_file

    choice = Choice(serving(""), all_platforms=False, originals=Originals.AUTO)
    with contextlib.ExitStack() as stack:
        if os.path.isdir(source):
            loading = load_directory(store, Path(source), choice, progress)
        else:
            stream = stack.enter_context(open(source, "rb"))
            loading = load_file(store, stream, source, choice, progress)
        loaded = list(loading)
    for each in loaded:
        if each.left_out:
            name = next(iter(each.names), each.tag)
            write_note(f"left out of {source}: {name} for {', '.join(each.left_out)}")
        if each.image.image_id not in store.tags().values():
            store.tag(_free_name(store, _stem(source), each.tag), each.image.image_id)
    # What wrote the archive had no order in mind (docker save has none); growth wants one.
    yield from (each.image.image_id for each in sorted(loaded, key=lambda each: each.image.created))


def _holds_images(store: Store, source: str) -> bool:
    """Return whether a file is an archive of images; else it is judged as a root file system."""
    from layerstore.image.layouts.archive_file import ArchiveFile
    from layerstore.image.layouts.docker_archive import MANIFEST_FILE
    from layerstore.image.layouts.layout import INDEX_FILE

    marks = (INDEX_FILE.encode(), MANIFEST_FILE, b"repositories")
    with store.begin(f"look into {source}") as session, open(source, "rb") as stream:
        try:
            with ArchiveFile(stream, lambda: session.temporary("archive.tar")) as files:
                return any(mark in files for mark in marks)
        except (FormatError, LimitExceededError, UnsafeContentError):
            return False


def _imported_tar(store: Store, source: str, progress: Progress) -> str:
    from layerstore.image.importing import import_tar

    name = os.path.basename(source)
    with open(source, "rb") as stream:
        return import_tar(store, stream, name, _spec(store, name), progress=progress).image.image_id


def _imported_directory(store: Store, source: str, progress: Progress) -> str:
    from layerstore.image.importing import import_directory

    spec = _spec(store, _stem(source))
    made = import_directory(store, Path(source), spec, progress=progress, on_skip=_tell_skipped)
    return made.image.image_id


def _tell_skipped(path: bytes, why: str) -> None:
    write_note(f"skipped {os.fsdecode(path)}: {why}")


def _spec(store: Store, name: str) -> ImportSpec:
    from layerstore.formats.oci_config import ContainerConfig
    from layerstore.image.importing import ImportSpec

    return ImportSpec((_free_name(store, name),), ContainerConfig(), "", now_rfc3339())


def _stem(path: str) -> str:
    return os.path.basename(os.path.realpath(path))


def _free_name(store: Store, file: str, tag: str = "") -> str:
    """Return how an image is called that has no name: as its file, and its tag if it has one."""
    from layerstore.formats.reference import ReferenceSyntaxError, parse_tag_name

    shorter = file.lower()
    while (cut := _ENDINGS.sub("", shorter)) != shorter:
        shorter = cut
    base = _NOT_IN_NAMES.sub("-", shorter).strip("-")[:100].strip("-") or "rootfs"
    with contextlib.suppress(ReferenceSyntaxError):  # a tag may be any text there
        base = parse_tag_name(f"{base}:{tag}") if tag else base
    known = store.tags()
    number = 1
    full = parse_tag_name(base)
    while full in known:
        number += 1
        full = parse_tag_name(f"{base}-{number}")
    return full
