"""``df --by``: what file contents take, by image, layer, step, package, directory or file.

Every table has one column that adds up: each row's own bytes and an equal part of what it shares
(:mod:`layerstore.measure.charges`). With what the images' metadata and the rest of the store take
below it, the total is the disk. Who reads a layer otherwise than its neighbours, by another history
or another package database, does not exist here: a layer is told by the oldest image of the
selection that has it, so that it is told once.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import msgspec

from layerstore.errors import IntegrityError, NotFoundError
from layerstore.formats.reference import BETWEEN_NAMES, shortened_names
from layerstore.image.images import history
from layerstore.measure.charges import Charges, take_charges
from layerstore.measure.table import Table, columns, csv_lines
from layerstore.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from layerstore.digest import DiffId
    from layerstore.measure.charges import Holding, LayerFile
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store

DEPTH = 2
"""Levels of directories when nobody says how many: ``/usr/lib``."""

ORIGINALS = "(compressed originals of layers)"
UNTOLD = "(not in the image's history)"
NAME_WIDTH = 72
"""Characters of a name in a table; JSON has all of it."""

_NAMELESS = "<none>"


class By(enum.StrEnum):
    """What makes a row."""

    IMAGE = "image"
    LAYER = "layer"
    STEP = "step"
    PACKAGE = "package"
    DIRECTORY = "directory"
    FILE = "file"


class Sort(enum.StrEnum):
    """What rows are sorted by; sizes with the largest first."""

    SHARE = "share"
    EXCLUSIVE = "exclusive"
    SHARED = "shared"
    SIZE = "size"
    NAME = "name"


class Row(msgspec.Struct, frozen=True):
    """One row.

    Attributes:
        name: Of an image, a package, a step's words, a path, or a layer's diff ID.
        detail: Of a layer its step, of a package its kind, of an image its id.
        layers: Layers of the selection with files in this row.
        files: Names of regular files in these, hidden ones too.
        size: Their logical bytes.
        exclusive_size: Stored bytes that no other row needs.
        shared_size: Stored bytes that other rows need, too.
        share_size: The exclusive ones and an equal part of the shared ones.
    """

    name: str
    detail: str
    layers: int
    files: int
    size: int
    exclusive_size: int
    shared_size: int
    share_size: int


class UsageBy(msgspec.Struct, frozen=True):
    """The table; ``contents_size``, ``metadata_size`` and ``rest_size`` add up to ``disk_size``.

    Attributes:
        images: Ids of the selection.
        rows: Sorted, the first ones if there is a limit.
        more_rows: How many are left out.
        more_share_size: What these share out among them.
        contents_size: What the shares of all rows add up to: stored bytes of file contents.
        metadata_size: Stored bytes of the selection's trees, recipes and layer records.
        rest_size: Everything else on disk, slack included.
        unreadable_layers: Layers whose trees cannot be read; they have no rows.
        left_out: What could not be read of package databases, and why.
    """

    by: By
    images: tuple[str, ...]
    rows: tuple[Row, ...]
    more_rows: int
    more_share_size: int
    contents_size: int
    metadata_size: int
    rest_size: int
    disk_size: int
    unreadable_layers: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


class _Tally:
    """Layers, files and logical bytes of one row."""

    __slots__ = ("files", "layers", "size")

    def __init__(self) -> None:
        self.layers: set[DiffId] = set()
        self.files = self.size = 0


_Key = tuple[str, str]
"""A row's name and detail."""


def take_usage_by(
    store: Store,
    by: By,
    references: Sequence[str] = (),
    *,
    depth: int = DEPTH,
    sort: Sort = Sort.SHARE,
    limit: int | None = None,
) -> UsageBy:
    """Return what file contents take in a store, row by row.

    Args:
        store: The store.
        by: What makes a row.
        references: Names or ids of images; none means all named ones.
        depth: Levels of directories; 0 puts everything into ``/``.
        sort: Order of rows.
        limit: The first rows only; None for all.

    Raises:
        NotFoundError: A reference names nothing.
        IntegrityError: The catalog or a layer's record is damaged.
        StorageError: The store cannot be read.
    """
    charges, rows, left_out = _charged(store, by, references, depth)
    rows.sort(key=lambda row: row.name)
    if sort is not Sort.NAME:
        field = "size" if sort is Sort.SIZE else f"{sort}_size"
        rows.sort(key=lambda row: getattr(row, field), reverse=True)
    shown = rows if limit is None else rows[:limit]
    disk_size = charges.ledger.disk_size
    return UsageBy(
        by=by,
        images=tuple(image.image_id for image in charges.images),
        rows=tuple(shown),
        more_rows=len(rows) - len(shown),
        more_share_size=sum(row.share_size for row in rows[len(shown) :]),
        contents_size=charges.contents_size,
        metadata_size=charges.metadata_size,
        rest_size=disk_size - charges.contents_size - charges.metadata_size,
        disk_size=disk_size,
        unreadable_layers=charges.unreadable,
        left_out=left_out,
    )


def _charged(
    store: Store, by: By, references: Sequence[str], depth: int
) -> tuple[Charges, list[Row], tuple[str, ...]]:
    """Return the charges of images, their rows in no order, and what could not be read."""
    if by is not By.PACKAGE:
        charges = take_charges(store, references)
        if by is By.IMAGE:
            return charges, _image_rows(store, charges), ()
        return charges, _rows(charges, _key_function(store, charges, by, depth)), ()
    from layerstore.measure.owners import PartReader, owners_of  # lazily: what reads databases

    reader = PartReader()
    charges = take_charges(store, references, reader)
    owners = owners_of(
        store,
        [image.layers for image in charges.images],
        lambda layer: (file.path for file in charges.files(layer)),
        reader.parts,
    )
    originals = charges.originals

    def package(layer: DiffId, file: LayerFile) -> _Key:
        return (ORIGINALS, "") if layer in originals else owners.package(layer, file.path)

    return charges, _rows(charges, package), owners.left_out


def _key_function(
    store: Store, charges: Charges, by: By, depth: int
) -> Callable[[DiffId, LayerFile], _Key]:
    originals = charges.originals
    if by is By.LAYER:
        steps = _steps(store, charges)
        return lambda layer, _: (layer, steps[layer])
    if by is By.STEP:
        steps = _steps(store, charges)
        return lambda layer, _: (steps[layer], "")
    if by is By.DIRECTORY:

        def directory(layer: DiffId, file: LayerFile) -> _Key:
            if layer in originals:
                return ORIGINALS, ""
            return "/" + _text(b"/".join(file.path.split(b"/")[:-1][:depth])), ""

        return directory

    def path(layer: DiffId, file: LayerFile) -> _Key:
        return (ORIGINALS if layer in originals else "/" + _text(file.path)), ""

    return path


def _rows(charges: Charges, key: Callable[[DiffId, LayerFile], _Key]) -> list[Row]:
    tallies: dict[_Key, _Tally] = {}

    def counted(layer: DiffId, file: LayerFile) -> _Key:
        found = key(layer, file)
        tally = tallies.get(found)
        if tally is None:
            tally = tallies[found] = _Tally()
        tally.layers.add(layer)
        tally.files += 1
        tally.size += file.size
        return found

    return [_row(name, tallies[name], held) for name, held in charges.rows(counted).items()]


def _image_rows(store: Store, charges: Charges) -> list[Row]:
    names = _names(store)
    tallies = {image.image_id: _Tally() for image in charges.images}
    for layer, images in charges.layers.items():
        files = charges.files(layer)
        size = sum(file.size for file in files)
        for image in images:
            tally = tallies[image.image_id]
            tally.layers.add(layer)
            tally.files += len(files)
            tally.size += size
    told = {each: BETWEEN_NAMES.join(some) for each, some in names.items()}
    return [
        _row((told.get(image_id, _NAMELESS), image_id), tallies[image_id], holding)
        for image_id, holding in charges.rows_by_image().items()
    ]


def _row(key: _Key, tally: _Tally, holding: Holding) -> Row:
    return Row(*key, len(tally.layers), tally.files, tally.size, *holding)


def _names(store: Store) -> Mapping[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name, image_id in store.tags().items():
        names.setdefault(image_id, []).append(name)
    return names


def _steps(store: Store, charges: Charges) -> dict[DiffId, str]:
    """Return the words of the step that made each layer, in the oldest image that has it."""
    told: dict[DiffId, str] = {}
    for image in charges.images:
        if any(diff_id not in told for diff_id in image.layers):
            for diff_id, words in _history(store, image):
                told.setdefault(diff_id, words)
    return {
        layer: ORIGINALS if layer in charges.originals else told.get(layer, UNTOLD)
        for layer in charges.layers
    }


def _history(store: Store, image: ImageRecord) -> list[tuple[DiffId, str]]:
    try:
        rows = history(store, image)
    except (IntegrityError, NotFoundError):
        return []  # check says what is wrong
    return [(row.diff_id, row.created_by or row.comment or UNTOLD) for row in rows if row.diff_id]


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def usage_by_table(usage: UsageBy) -> Table:
    """Return the table for people."""
    has_detail = usage.by in (By.LAYER, By.PACKAGE)
    detail = {By.LAYER: "STEP", By.PACKAGE: "KIND"}.get(usage.by)
    heads = [usage.by.upper(), *([detail] if detail else [])]
    blank = ("",) * (len(heads) - 1)

    def line(name: str, share_size: int) -> tuple[str, ...]:
        return (name, *blank, "", "", "", "", format_size(share_size))

    rows = [_cells(usage.by, row, has_detail=has_detail) for row in usage.rows]
    if usage.more_rows:
        rows.append(line(f"{usage.more_rows} more", usage.more_share_size))
    rows.append(line("File contents", usage.contents_size))
    rows.append(line("Their trees, recipes and records", usage.metadata_size))
    rows.append(line("Everything else in the store", usage.rest_size))
    notes = [f"not read: {each}" for each in usage.left_out]
    if usage.unreadable_layers:
        count = len(usage.unreadable_layers)
        notes.append(
            f"{count} layer{'s' * (count != 1)}, in no row, cannot be read: run 'layerstore check'"
        )
    return Table(
        title="",
        columns=columns(heads, ["FILES", "SIZE", "EXCLUSIVE", "SHARED", "SHARE"]),
        rows=tuple(rows),
        total=line("On disk", usage.disk_size),
        notes=tuple(notes),
    )


def usage_by_csv(usage: UsageBy) -> Iterator[str]:
    """Yield the rows as lines of CSV, whole names and bytes."""
    return csv_lines(Row.__struct_fields__, map(msgspec.structs.astuple, usage.rows))


def _cells(by: By, row: Row, *, has_detail: bool) -> tuple[str, ...]:
    name = _shown(by, row.name)
    detail = (_short(row.detail),) if has_detail else ()
    sizes = (row.size, row.exclusive_size, row.shared_size, row.share_size)
    return (name, *detail, str(row.files), *map(format_size, sizes))


def _shown(by: By, name: str) -> str:
    """Return a row's name as its cell has room for it."""
    if by is By.LAYER:
        return name.partition(":")[2][:12]
    return _short(shortened_names(name) if by is By.IMAGE else name)


def _short(text: str) -> str:
    """Cut a name in the middle: what tells paths and commands apart stands at both ends."""
    if len(text) <= NAME_WIDTH:
        return text
    half = (NAME_WIDTH - 1) // 2
    return f"{text[:half]}…{text[-half:]}"
