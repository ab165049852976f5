"""The shapes of what commands print with ``--json``, and the JSON Schema that describes them.

One home for all of them: reports that are structs describe themselves, and those that are put
together when they are printed are described here. A test holds real output against the schema, so
that a key is neither lost nor added unseen. Nothing here is loaded when a command runs.

Reference: docs/reference/reports.schema.json.
"""

from __future__ import annotations

import json
from typing import Any, Literal, TypedDict

import msgspec

from layerstore.measure.df import DiskUsage
from layerstore.measure.fleet.analysis import Fleet
from layerstore.measure.report.collect import Report
from layerstore.measure.usage_by import UsageBy
from layerstore.measure.waste import CauseTotal  # noqa: TC001 -- msgspec reads it
from layerstore.measure.waste_rules import Rule  # noqa: TC001 -- msgspec reads it
from layerstore.measure.waste_steps import StepTotal  # noqa: TC001 -- msgspec reads it

EntryType = Literal["dir", "file", "symlink", "hardlink", "fifo", "char", "block"]


class StepShape(TypedDict):
    """What made a layer: its number from the bottom, the instruction, and where that stands."""

    number: int
    diff_id: str
    text: str
    place: str
    file: str
    line: int | None


class NamedImage(TypedDict):
    """An image and its names."""

    id: str
    names: list[str]


class ImageRow(TypedDict):
    """``images``: ``size`` in logical bytes, times as RFC 3339."""

    id: str
    names: list[str]
    repo_digests: list[str]
    in_indexes: list[str]
    created: str
    size: int
    layers: list[str]
    manifest_digest: str
    last_used: str | None
    pinned: list[str]


class HistoryStep(TypedDict):
    """``history``: one step, the newest first; ``diff_id`` is null where it made no layer."""

    id: str | None
    created: str
    created_by: str
    comment: str
    diff_id: str | None
    size: int


class SizeOfImage(TypedDict):
    """What a container sees of an image."""

    image: str
    logical_size: int
    files: int


class BeyondShape(TypedDict):
    """What one image needs that the other has not, and its layers of which that is so."""

    stored_size: int
    unique_size: int
    tar_size: int
    layers: list[str]


class ConfigShape(TypedDict):
    """One setting; null where an image has none of this name."""

    field: str
    old: Any
    new: Any


class PackageShape(TypedDict):
    """One package that two images have differently."""

    kind: str
    name: str
    old: list[str]
    new: list[str]
    change: str


class EntryShape(TypedDict):
    """What stands at a path; ``mode`` in octal digits."""

    type: EntryType
    size: int
    mode: str
    uid: int
    gid: int
    mtime_ns: int


class FileShape(TypedDict):
    """One path that two images have differently."""

    kind: Literal["A", "C", "D"]
    path: str
    differs: list[str]
    old: EntryShape | None
    new: EntryShape | None
    new_stored: int


class DiffReport(TypedDict):
    """``diff OLD NEW``; ``packages`` is null where they were not asked for."""

    old: SizeOfImage
    new: SizeOfImage
    common_layers: int
    new_beyond_old: BeyondShape
    old_beyond_new: BeyondShape
    config: list[ConfigShape]
    packages: list[PackageShape] | None
    packages_left_out: list[str]
    file_count: int
    files: list[FileShape]


class WrittenPath(TypedDict):
    """``diff VIEW``: a path that was added, changed or deleted."""

    kind: Literal["A", "C", "D"]
    path: str


class VerdictShape(TypedDict):
    """What a limit is for, and whether the image keeps it, in bytes; null where none was set."""

    check: str
    size: int
    limit: int | None
    kept: bool


class WastedPath(TypedDict):
    """One path and its bytes."""

    path: str
    size: int


class FindingShape(TypedDict):
    """Needless files of one image that one step made, of one cause."""

    rule: Rule
    cause: str
    step: StepShape
    by: StepShape | None
    files: int
    size: int
    stored: int
    paths: list[WastedPath]
    fix: str
    advice: bool


class WasteOfImage(TypedDict):
    """What one image could do without."""

    name: str
    image: str
    layers_size: int
    size: int
    stored: int
    verdicts: list[VerdictShape]
    findings: list[FindingShape]


class WasteReport(TypedDict):
    """``waste``: by image, and over all of them by cause and by step."""

    images: list[WasteOfImage]
    causes: list[CauseTotal]
    steps: list[StepTotal]


class FoundPath(TypedDict):
    """``find`` of a name or content: where it stands; ``step`` is that of the first image."""

    path: str
    type: EntryType
    size: int
    mode: str
    uid: int
    gid: int
    layer: str
    step: StepShape | None
    hidden_by: StepShape | None
    images: list[NamedImage]


class FoundPackage(TypedDict):
    """One package of one image."""

    image: str
    names: list[str]
    name: str
    version: str
    kind: str
    architecture: str
    origin: str
    purl: str
    path: str
    step: StepShape | None


class FoundPackages(TypedDict):
    """``find --package``; ``not_compared`` versions have an order of their own."""

    packages: list[FoundPackage]
    not_compared: int
    left_out: list[str]


class CostsShape(TypedDict):
    """Bytes: of layers unpacked, of uncompressed tars, stored in packs."""

    layers: int
    tars: int
    stored: int


class PlaceShape(TypedDict):
    """What pip or npm installs at one place, in exact versions."""

    manager: Literal["pip", "npm"]
    place: str
    python: str
    packages: list[str]


BaseShape = TypedDict(
    "BaseShape",
    {
        "name": str,
        "from": str,
        "images": list[str],
        "packages": list[str],
        "others": list[PlaceShape],
        "npm_install_in": list[str],
        "package_count": int,
        "saved": CostsShape,
        "spec": str,
    },
)
BaseShape.__doc__ = "A base that is proposed, and the spec that makes it."


class RefusedShape(TypedDict):
    """Packages that several images have and no base could give them."""

    manager: Literal["pip", "npm"]
    names: list[str]
    why: str
    images: list[str]


class MeasuredShape(TypedDict):
    """What the images took as they are, and over the proposed bases."""

    before: CostsShape
    after: CostsShape


class GroupShape(TypedDict):
    """Images that begin alike; ``measured`` is null without ``--prove``."""

    images: list[str]
    base: str
    bases: list[BaseShape]
    packages_in_several_versions: int
    refused: list[RefusedShape]
    now: CostsShape
    predicted: CostsShape
    measured: MeasuredShape | None


class MoveShape(TypedDict):
    """A step that was made again with the same content, and the one that changed below it."""

    repository: str
    step: StepShape
    below: StepShape
    times: int
    releases: int
    size: int


class SuggestReport(TypedDict):
    """``suggest``."""

    groups: list[GroupShape]
    moves: list[MoveShape]


REPORTS: dict[str, Any] = {
    "images": list[ImageRow],
    "history": list[HistoryStep],
    "df": DiskUsage,
    "df --by": UsageBy,
    "savings": Report,
    "diff OLD NEW": DiffReport,
    "diff VIEW": list[WrittenPath],
    "waste": WasteReport,
    "find": list[FoundPath],
    "find --package": FoundPackages,
    "suggest": SuggestReport,
    "fleet": Fleet,
}
"""What the commands print, by the words that are typed."""


def json_schema() -> str:
    """Return the text of docs/reference/reports.schema.json: a property for each of the reports.

    python -c 'from layerstore.cli.about.report_shapes import json_schema; print(json_schema())'
    """
    schemas, components = msgspec.json.schema_components(REPORTS.values())
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "description": "What layerstore prints with --json, by command.",
        "properties": dict(zip(REPORTS, schemas, strict=True)),
        "$defs": components,
    }
    return json.dumps(whole, indent=1)
