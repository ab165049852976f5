"""Images as a list: the table of ``images``, its ids, and its JSON. On the fast path."""

from __future__ import annotations

from layerstore.cli.output import age, short_id, write_json, write_line, write_table
from layerstore.formats.reference import is_index_name
from layerstore.light_typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from layerstore.store.catalog.rows import ImageRecord

NAMELESS = "<none>"


class Shown(NamedTuple):
    """What is shown of images beside their records.

    Attributes:
        uses: Seconds since 1970 of the last use, by image id.
        pinned: Names and image ids.
    """

    uses: dict[str, float]
    pinned: frozenset[str]


def named(
    images: Sequence[ImageRecord], tags: Mapping[str, str], wanted: str | None
) -> tuple[list[ImageRecord], dict[str, list[str]]]:
    """Return images with their names by id: all, or those that are called as is wanted.

    Args:
        images: Newest first.
        tags: Image id by name.
        wanted: A repository, a name, or a pattern.
    """
    names: dict[str, list[str]] = {}
    for name, image_id in tags.items():
        names.setdefault(image_id, []).append(name)
    if wanted is None:
        return list(images), names
    names = {image_id: _matching(some, wanted) for image_id, some in names.items()}
    return [image for image in images if names.get(image.image_id)], names


def show_images(
    images: Sequence[ImageRecord],
    names: Mapping[str, list[str]],
    shown: Shown,
    options: argparse.Namespace,
) -> None:
    """Print images as the options of ``images`` want them.

    Args:
        images: Newest first.
        names: Of images, by id.
        shown: What is shown beside.
        options: Of the command; see :mod:`layerstore.cli.fast`.
    """
    if options.format == "json":
        write_json([_image_to_json(each, names.get(each.image_id, []), shown) for each in images])
    elif options.quiet:
        for image in images:
            write_line(image.image_id if options.no_trunc else short_id(image.image_id))
    elif options.format == "table":
        _print_images(images, names, shown, options)
    else:
        from layerstore.cli.parsing.templates import print_rows

        rows = [
            _template_fields(image, row, cut=not options.no_trunc)
            for image in images
            for row in _named_rows(names.get(image.image_id, []))
        ]
        print_rows(options.format, rows, {"ID": "IMAGE ID", "CreatedSince": "CREATED"})


def _matching(names: Sequence[str], wanted: str) -> list[str]:
    """Return those of an image's names that are of a repository, and have its tag if it has one."""
    from layerstore.formats.reference import parse_reference, split_name

    if any(character in wanted for character in "*?["):
        from layerstore.cli.image.filters import matches

        return [name for name in names if matches(name, wanted)]
    reference = parse_reference(wanted)
    found = [(split_name(name)[1], name) for name in names]
    found = [each for each in found if split_name(each[1])[0] == reference.repository]
    if reference.tag is not None and all(tag != reference.tag for tag, _ in found):
        return []
    # A digest is not looked for, but shown beside the tag.
    return [name for tag, name in found if reference.tag in (None, tag) or not tag]


def _template_fields(
    image: ImageRecord, row: tuple[str, str, str], *, cut: bool
) -> dict[str, object]:
    """Return what templates may ask of a row: docker's names, where they mean something."""
    import time

    from layerstore.units import format_size

    repository, tag, digest = row
    return {
        "ID": short_id(image.image_id) if cut else image.image_id,
        "Repository": repository,
        "Tag": tag,
        "Digest": digest or image.manifest_digest,
        "CreatedSince": age(image.created, time.time()),
        "CreatedAt": image.created,
        "Size": format_size(image.size),
    }


def _print_images(
    images: Sequence[ImageRecord],
    names: Mapping[str, list[str]],
    shown: Shown,
    options: argparse.Namespace,
) -> None:
    import time

    from layerstore.units import format_size, rfc3339

    now_s = time.time()
    rows = []
    for image in images:
        used = shown.uses.get(image.image_id)
        for repository, tag, digest in _named_rows(names.get(image.image_id, [])):
            row = [repository, tag]
            if options.digests:
                row.append(digest or image.manifest_digest)
            row.append(image.image_id if options.no_trunc else short_id(image.image_id))
            row += [age(image.created, now_s), format_size(image.size)]
            if options.verbose:
                row.append(age(rfc3339(used), now_s) if used is not None else "N/A")
                name = f"{repository}:{tag}"
                row.append("yes" if shown.pinned & {name, image.image_id} else "")
            rows.append(row)
    headers = ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]
    if options.verbose:
        headers += ["LAST USED", "PINNED"]
    if options.digests:
        headers.insert(2, "DIGEST")
    write_table(headers, rows)


def _named_rows(names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return repository, tag and digest of an image's names, as docker lists them.

    A digest is that of the repository the image came from, and has a row of its own where no
    tag of that repository is the image's.
    """
    # What says that the image is in a tag's index counts where nothing else names the image.
    tags = {name for name in names if "@" not in name}
    digests: dict[str, str] = {}
    for name in sorted(names, key=is_index_name):
        before, at, digest = name.partition("@")
        if at and before not in tags:
            digests.setdefault(before.rpartition(":")[0] if is_index_name(name) else before, digest)
    tagged = [name.rpartition(":")[::2] for name in names if "@" not in name]
    rows = [(repository, tag, digests.get(repository, "")) for repository, tag in tagged]
    known = {repository for repository, _ in tagged}
    rows += [(each, NAMELESS, digest) for each, digest in digests.items() if each not in known]
    return rows or [(NAMELESS, NAMELESS, "")]


def _image_to_json(image: ImageRecord, names: list[str], shown: Shown) -> dict[str, object]:
    from layerstore.units import rfc3339

    used = shown.uses.get(image.image_id)
    return {
        "id": image.image_id,
        "names": [name for name in names if "@" not in name],
        "repo_digests": [n for n in names if "@" in n and not is_index_name(n)],
        "in_indexes": sorted({n.partition("@")[0] for n in names if is_index_name(n)}),
        "created": image.created,
        "size": image.size,
        "layers": list(image.layers),
        "manifest_digest": image.manifest_digest,
        "last_used": rfc3339(used) if used is not None else None,
        "pinned": sorted(shown.pinned & {*names, image.image_id}),
    }
