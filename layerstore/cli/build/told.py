"""What a build that went well leaves for scripts and tells people.

Source: buildx, ``--metadata-file``; docker, ``--iidfile`` and ``--quiet``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING

from layerstore.cli.outfile import output_stream
from layerstore.cli.output import write_json, write_line, write_note

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from layerstore.build.request import BuildResult, BuiltVariant


def forget(*paths: Path | None) -> None:
    """Remove files that an earlier build wrote, so that a failed build leaves none."""
    for path in paths:
        if path is not None:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def write_whole(path: Path, text: str) -> None:
    """Write a small file: it is there whole, and durable, or not at all."""
    with output_stream(os.path.abspath(path)) as stream:
        stream.write(text.encode())


def leave_files(
    built: Sequence[BuiltVariant], iidfile: Path | None, metadata_file: Path | None
) -> None:
    """Write what ``--iidfile`` and ``--metadata-file`` ask for.

    Raises:
        InputError: One cannot be written.
    """
    if metadata_file is not None:
        text = json.dumps(_metadata_of_all(built), indent=2, ensure_ascii=True)
        write_whole(metadata_file, text + "\n")
    if iidfile is not None:
        write_whole(iidfile, "\n".join(each.result.image_id for each in built))


def tell(
    built: Sequence[BuiltVariant], *, progress: str, quiet: bool, as_json: bool, id_too: bool
) -> None:
    """Say what was built: ids or JSON on stdout, a summary for people on stderr.

    Args:
        built: The images.
        progress: How steps were shown.
        quiet: No summary.
        as_json: JSON instead of ids.
        id_too: Stdout is free for the ids.
    """
    from layerstore.cli.build.ui import JSON_PROGRESS, sizes, summary

    members = [_members(each) for each in built]
    if progress in JSON_PROGRESS:
        from layerstore.cli.build.json_lines import JsonUi

        for each in members:
            JsonUi(sys.stderr).done(**each)
    if as_json:
        write_json(members if built[0].label else members[0])
        return
    if id_too:
        for variant in built:
            write_line(variant.result.image_id)
    if not quiet and progress not in (*JSON_PROGRESS, "quiet"):
        for variant in built:
            result = variant.result
            stored = sizes(result.new_bytes, result.reused_bytes)
            write_note(
                summary(
                    result.names, result.image.size, result.cached, result.steps, stored,
                    is_stored=result.is_stored,
                )
            )  # fmt: skip


def stored(built: Sequence[BuiltVariant]) -> list[str]:
    """Return the ids of what was built into the store."""
    return [each.result.image_id for each in built if each.result.is_stored]


def _members(variant: BuiltVariant) -> dict[str, object]:
    result = variant.result
    head: dict[str, object] = {"variant": variant.label} if variant.label else {}
    return {
        **head,
        "id": result.image_id,
        "names": list(result.names),
        "size": result.image.size,
        "steps": result.steps,
        "cached": result.cached,
        "new_bytes": result.new_bytes,
        "reused_bytes": result.reused_bytes,
    }


def _metadata_of_all(built: Sequence[BuiltVariant]) -> dict[str, object]:
    """Return what ``--metadata-file`` holds: of variants each under its label, as buildx bake.

    What they have in common (the index of several platforms, its names) is told once more in
    front, where scripts look for it that were written for buildx.
    """
    every = [_metadata(each.result) for each in built]
    if not built[0].label:
        return every[0]
    common = {
        key: value
        for key, value in every[0].items()
        if len(every) > 1 and all(each.get(key) == value for each in every)
    }
    return {**common, **{each.label: told for each, told in zip(built, every, strict=True)}}


def _metadata(result: BuildResult) -> dict[str, object]:
    """Return what ``--metadata-file`` holds, under buildx' keys."""
    from layerstore.formats.reference import full_name

    descriptor = result.descriptor
    plain: dict[str, object] = {
        "containerimage.config.digest": result.image_id,
        "containerimage.descriptor": {
            "mediaType": descriptor.media_type,
            "digest": descriptor.digest,
            "size": descriptor.size,
        },
        "containerimage.digest": descriptor.digest,
    }
    from layerstore.image.exchange.attestations import PROVENANCE_TYPE

    if PROVENANCE_TYPE in result.predicates:
        plain["buildx.build.provenance"] = json.loads(result.predicates[PROVENANCE_TYPE])
    if result.names:
        plain["image.name"] = ",".join(full_name(name) for name in result.names)
    return plain
