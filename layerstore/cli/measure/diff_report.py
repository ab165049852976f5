"""What two images differ in, as tables for people and as JSON."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from layerstore.cli.output import (
    counted,
    short_id,
    shorten,
    write_line,
    write_note,
    write_table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.formats.tree import Entry
    from layerstore.measure.beyond import Beyond
    from layerstore.measure.image_diff import FileChange, ImageDiff
    from layerstore.measure.packages import PackageChange

VALUE_WIDTH = 48
"""Characters of a setting, of a package's name and versions; JSON has all of it."""


def print_diff(
    found: ImageDiff, names: tuple[str, str], limit: int | None, *, of_time: int = 0
) -> None:
    """Print sizes, config, packages and files, the largest change first.

    Args:
        found: The difference.
        names: As the user called the images.
        limit: Rows of each table, None for all.
        of_time: Paths that are left out, since only their time differs.
    """
    _print_sizes(found, names)
    if found.config:
        write_line()
        rows = [[each.field, _value(each.old), _value(each.new)] for each in found.config]
        _print_some(["CONFIG", "OLD", "NEW"], rows, limit, "settings")
    if found.packages:
        write_line()
        rows = [_package_row(each) for each in found.packages]
        _print_some(["PACKAGE", "KIND", "OLD", "NEW", "CHANGE"], rows, limit, "packages")
    if found.files:
        write_line()
        rows = [_file_row(each) for each in sorted(found.files, key=_weight)]
        _print_some(["", "PATH", "OLD", "NEW", "NEW STORED", "DIFFERS IN"], rows, limit, "paths")
    if of_time:
        left = counted(of_time, "path")
        write_line(f"not listed: {left} of which only the time differs (--times)")
    if found.is_empty:
        write_line("no other difference" if of_time else "no difference")
    for each in found.left_out:
        write_note(f"note: not read: {each}")


def _print_sizes(found: ImageDiff, names: tuple[str, str]) -> None:
    from layerstore.units import format_size

    old, new = found.old_size, found.new_size
    write_table(
        ["IMAGE", "IMAGE ID", "FILES", "LOGICAL"],
        [
            [names[0], short_id(found.old_image), str(old.files), format_size(old.logical_size)],
            [names[1], short_id(found.new_image), str(new.files), format_size(new.logical_size)],
        ],
    )
    write_line()
    write_line(f"the layers in common: {found.common_layers}, from the bottom")
    write_line(_beyond_line(names[1], names[0], found.beyond))
    write_line(_beyond_line(names[0], names[1], found.back))


def _beyond_line(name: str, other: str, beyond: Beyond) -> str:
    from layerstore.units import format_size

    if not beyond.layers:
        return f"{name} needs nothing beyond {other}"
    layers = counted(len(beyond.layers), "layer")
    return (
        f"{name} needs {format_size(beyond.stored_size)} beyond {other} as stored chunks, "
        f"{format_size(beyond.tar_size)} as plain layers ({layers})"
    )


def _print_some(head: list[str], rows: list[list[str]], limit: int | None, what: str) -> None:
    write_table(head, rows[:limit])
    if limit is not None and len(rows) > limit:
        write_line(f"and {len(rows) - limit} more {what}: --limit 0 lists all")


def _weight(change: FileChange) -> tuple[int, bytes]:
    """Sort by bytes that came or went, then by path."""
    old = change.old.size if change.old is not None else 0
    new = change.new.size if change.new is not None else 0
    return -max(old, new), change.path


def _file_row(change: FileChange) -> list[str]:
    from layerstore.units import format_size

    return [
        change.kind.value,
        _path(change.path),
        "" if change.old is None else _entry_size(change.old),
        "" if change.new is None else _entry_size(change.new),
        format_size(change.new_stored) if change.new_stored else "",
        ", ".join(_words(change)),
    ]


def _words(change: FileChange) -> list[str]:
    """Name what differs; modes and owners with their values."""
    words = []
    for field in change.differs:
        if change.old is not None and change.new is not None:
            if field == "mode":
                field += f" {change.old.mode:04o} {change.new.mode:04o}"
            elif field == "owner":
                field += f" {_owner(change.old)} {_owner(change.new)}"
        words.append(field)
    return words


def _owner(entry: Entry) -> str:
    return f"{entry.uid}:{entry.gid}"


def _entry_size(entry: Entry) -> str:
    from layerstore.formats.tree import Kind
    from layerstore.units import format_size

    return format_size(entry.size) if entry.kind is Kind.FILE else entry.kind.name.lower()


def _package_row(change: PackageChange) -> list[str]:
    versions = (_versions(change.old), _versions(change.new))
    return [shorten(change.name, VALUE_WIDTH), change.kind, *versions, _became(change)]


def _became(change: PackageChange) -> str:
    if not change.old:
        return "added"
    if not change.new:
        return "removed"
    from layerstore.measure.versions import version_key

    keys = [version_key(change.kind, version) for version in (*change.old, *change.new)]
    if len(keys) != 2 or None in keys or keys[0] == keys[1]:
        return "version"
    return "upgrade" if keys[0] < keys[1] else "downgrade"


def _versions(versions: Sequence[str]) -> str:
    return shorten(", ".join(versions), VALUE_WIDTH)


def _value(value: object) -> str:
    if value is None:
        return ""
    return shorten(value if isinstance(value, str) else json.dumps(value), VALUE_WIDTH)


def _path(path: bytes) -> str:
    return "/" + os.fsdecode(path)


def diff_to_json(found: ImageDiff, limit: int | None) -> dict[str, object]:
    """Return everything as JSON has it.

    Args:
        found: The difference.
        limit: Members of each list, None for all.
    """
    packages = found.packages
    return {
        "old": {"image": found.old_image, **found.old_size._asdict()},
        "new": {"image": found.new_image, **found.new_size._asdict()},
        "common_layers": found.common_layers,
        "new_beyond_old": _beyond_to_json(found.beyond),
        "old_beyond_new": _beyond_to_json(found.back),
        "config": [each._asdict() for each in found.config[:limit]],
        "packages": None
        if packages is None
        else [{**each._asdict(), "change": _became(each)} for each in packages[:limit]],
        "packages_left_out": list(found.left_out),
        "file_count": len(found.files),
        "files": [_file_to_json(each) for each in found.files[:limit]],
    }


def _beyond_to_json(beyond: Beyond) -> dict[str, object]:
    return {
        "stored_size": beyond.stored_size,
        "unique_size": beyond.unique_size,
        "tar_size": beyond.tar_size,
        "layers": list(beyond.layers),
    }


def _file_to_json(change: FileChange) -> dict[str, object]:
    return {
        "kind": change.kind.value,
        "path": _path(change.path),
        "differs": list(change.differs),
        "old": _entry_to_json(change.old),
        "new": _entry_to_json(change.new),
        "new_stored": change.new_stored,
    }


def _entry_to_json(entry: Entry | None) -> dict[str, object] | None:
    if entry is None:
        return None
    return {
        "type": entry.kind.name.lower(),
        "size": entry.size,
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime_ns": entry.mtime_ns,
    }
