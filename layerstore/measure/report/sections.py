"""What the page says, section by section: a sentence, a picture, the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.formats.reference import shortened_names
from layerstore.measure.report.bars import NARROW_PX, WIDE_PX, Step, bars
from layerstore.measure.report.curves import Series, curves
from layerstore.measure.report.figures import figure, twice
from layerstore.measure.report.heat import heat_map
from layerstore.measure.report.svg import shown
from layerstore.measure.report.tables import OPEN_ROWS_MAX, folded, table
from layerstore.measure.report.treemap import Tile, treemap
from layerstore.measure.savings import SCHEME_LABELS, Scheme
from layerstore.measure.savings_report import (
    HOW,
    OURS,
    image_label,
    image_name,
    optimize_note,
    ratio_text,
)
from layerstore.units import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.measure.memory import Memory
    from layerstore.measure.packages_held import PackageHeld
    from layerstore.measure.places import Place
    from layerstore.measure.report.svg import Svg
    from layerstore.measure.savings import Savings, SchemeSize
    from layerstore.measure.sharing import Sharing
    from layerstore.measure.transfers import Transfers

COMPARED_WITH = {
    Scheme.PLAIN_LAYERS: Scheme.FULL_COPIES,
    Scheme.COMPRESSED_LAYERS: Scheme.PLAIN_LAYERS,
    Scheme.WHOLE_FILES: Scheme.PLAIN_LAYERS,
    Scheme.FIXED_BLOCKS: Scheme.WHOLE_FILES,
    Scheme.CHUNKS: Scheme.WHOLE_FILES,
    Scheme.STORED: Scheme.CHUNKS,
    Scheme.OPTIMIZED: Scheme.STORED,
}

_MAGNIFIED_FROM = 2.5
"""Full copies that are so many times all others are left out of a second picture."""
_PAIRS = 20

PACKAGES_SHOWN = 60
"""Packages with a tile and a row of their own; a distribution has hundreds of small ones."""

_SCHEMES_TEXT = (
    "<p>The pale part of a bar is what is saved against the next simpler way: plain layers "
    "against full copies, whole files against layers, chunks against files.</p>"
)
_GROWTH_TEXT = (
    "<p>The images in the order in which they came, oldest first unless another order was "
    "given. A flat piece is an image that brought little that was not there.</p>"
)
_COUNTED = (
    ("Full copies, plain layers and whole files: what a plain copy takes on ext4, in blocks of "
    "4 KiB, holes free; a model, which is a little below what du prints."),
    ("Layerstore: all that these images take on disk here, with metadata, and their part of "
    "catalog, locks and allocation slack."),
)  # fmt: skip


def summary(savings: Savings) -> str:
    """Return what was compared, in words."""
    images, containers = len(savings.images), savings.containers
    return f"{images} image{'s' * (images != 1)} as {containers} container{'s' * (containers != 1)}"


def headline(savings: Savings, transfers: Transfers | None) -> str:
    """Return the one sentence, and the figures that people take away."""
    ours = format_size(savings.size_of(Scheme.STORED))
    full = format_size(savings.size_of(Scheme.FULL_COPIES))
    plain = format_size(savings.size_of(Scheme.PLAIN_LAYERS))
    tiles = [
        (ratio_text(savings, Scheme.FULL_COPIES), f"full copies: {full} against {ours}"),
        (ratio_text(savings, Scheme.PLAIN_LAYERS), f"docker's plain layers: {plain}"),
        (format_size(savings.logical_size), "of files are what the containers see"),
    ]
    if savings.has(Scheme.OPTIMIZED):
        best = format_size(savings.size_of(Scheme.OPTIMIZED))
        tiles.append((best, "after optimize, tried in a scratch copy"))
    if transfers and transfers.parcels_size:
        times = transfers.layers_size / transfers.parcels_size
        tiles.append((f"{times:.1f}x", "compressed layers against parcels, on the network"))
    takes = "takes" if len(savings.images) == 1 and savings.containers == 1 else "take"
    figures = "".join(f"<li><b>{shown(n)}</b><span>{shown(text)}</span></li>" for n, text in tiles)
    return (
        f'<h1>{shown(summary(savings))} {takes} <b class="ours">{ours}</b>; '
        f"full copies would take {full}</h1>\n"
        "<p>What the same containers cost on a disk, kept in one way or another. Every figure "
        "names what it is compared with; how they are counted stands at the end.</p>\n"
        f'<ul class="tiles">{figures}</ul>'
    )


def schemes(savings: Savings) -> str:
    """Return the waterfall."""
    steps = scheme_steps(savings, savings.schemes)
    rows = [
        (s.label, HOW[s.scheme], format_size(s.size), ratio_text(savings, s.scheme),
         "" if s.scheme in OURS else format_size(savings.saved(s.scheme)))
        for s in savings.schemes
    ]  # fmt: skip
    parts = [
        "<section><h2>What the same containers take</h2>",
        _SCHEMES_TEXT,
        twice(lambda width, ident: bars(steps, width, "Bytes on disk by scheme", ident), "bars"),
    ]
    if is_magnified(savings):
        fewer = scheme_steps(savings, savings.schemes[1:])
        draw = lambda width, ident: bars(fewer, width, "The same without full copies", ident)  # noqa: E731
        parts += ["<h3>The same without full copies, magnified</h3>", twice(draw, "zoom")]
    parts += [
        table("Bytes on disk by scheme", ["Scheme", "What is kept", "On disk", "Times ours",
              "Saved here"], rows, texts=2, keys=[s.scheme.value for s in savings.schemes],
              ours=[n for n, s in enumerate(savings.schemes) if s.scheme in OURS]),
        "</section>",
    ]  # fmt: skip
    return "\n".join(parts)


def is_magnified(savings: Savings) -> bool:
    """Return whether full copies leave nothing to be seen of the rest."""
    rest = max(
        (item.size for item in savings.schemes if item.scheme is not Scheme.FULL_COPIES), default=0
    )
    return savings.size_of(Scheme.FULL_COPIES) > _MAGNIFIED_FROM * rest > 0


def scheme_steps(savings: Savings, chosen: Sequence[SchemeSize]) -> list[Step]:
    """Return bars of schemes; a scheme is compared with one of the others if that is there."""
    there = {item.scheme: item for item in chosen}
    steps = []
    for item in chosen:
        other = there.get(COMPARED_WITH.get(item.scheme, item.scheme))
        before = other if other is not item else None
        steps.append(
            Step(
                item.scheme.value,
                item.label,
                HOW[item.scheme],
                item.size,
                ratio_text(savings, item.scheme),
                before.size if before else 0,
                before.label if before else "",
            )
        )
    return steps


def growth(savings: Savings) -> str:
    """Return how each scheme grows."""
    names = [image_label(image) for image in savings.images]
    if len(names) < 2:
        return ""
    parts = [
        "<section><h2>How it grows</h2>",
        _GROWTH_TEXT,
        _curves(savings.schemes, names, "Bytes on disk as images are added", "growth"),
    ]
    if is_magnified(savings):
        parts += [
            "<h3>The same without full copies, magnified</h3>",
            _curves(savings.schemes[1:], names, "The same without full copies", "growthzoom"),
        ]
    rows = [
        [str(n + 1), name, *(format_size(item.growth[n]) for item in savings.schemes)]
        for n, name in enumerate(names)
    ]
    heads = ["", "With image", *(item.label for item in savings.schemes)]
    told = table("Bytes on disk after each image", heads, rows, texts=2, whole=_whole(savings))
    return "\n".join([*parts, folded("The numbers", told), "</section>"])


def _whole(savings: Savings) -> dict[str, str]:
    """Return all names of images by what is shown of them."""
    return {image_label(image): image_name(image) for image in savings.images}


def _curves(chosen: Sequence[SchemeSize], names: Sequence[str], title: str, ident: str) -> str:
    series = [Series(s.scheme.value, _short(s.scheme), s.growth) for s in chosen]

    def draw(width: int, own: str) -> Svg:
        height = 400 if width > 600 else 340
        return curves(series, names, (width, height), title, own)

    return twice(draw, ident)


def _short(scheme: Scheme) -> str:
    return SCHEME_LABELS[scheme].partition(" (")[0].partition(",")[0] if scheme not in OURS else (
        SCHEME_LABELS[scheme].replace(", on disk", "")
    )  # fmt: skip


def sharing(wide: Sharing, narrow: Sharing) -> str:
    """Return what images have in common."""
    if len(wide.names) < 2:
        return ""
    title = "How much of one image is in another"
    pictures = figure(heat_map(wide.names, wide.shares(), WIDE_PX, title, "heat-w"), "wide")
    pictures += figure(
        heat_map(narrow.names, narrow.shares(), NARROW_PX, title, "heat-n"), "narrow"
    )
    pairs = sorted(
        (
            (-wide.shared_sizes[row][column], wide.names[row], wide.names[column], row, column)
            for row in range(len(wide.names))
            for column in range(row)
        ),
    )[:_PAIRS]
    shares = wide.shares()
    labels = {name: shortened_names(name) for name in wide.names}
    rows = [
        (labels[first], labels[second], format_size(-size), f"{shares[row][column]:.0%}",
         f"{shares[column][row]:.0%}")
        for size, first, second, row, column in pairs
    ]  # fmt: skip
    told = table("The pairs that share most, by stored bytes", ["Image", "Another", "Shared",
                 "Of the one", "Of the other"], rows, texts=2,
                 whole={label: name for name, label in labels.items()})  # fmt: skip
    return (
        "<section><h2>What images have in common</h2>\n<p>How much of the image of a row, by "
        "bytes in this store, is in the image of a column as well.</p>\n"
        f"{pictures}{folded('The pairs that share most', told)}</section>"
    )


def places(found: Sequence[Place]) -> str:
    """Return where the bytes are."""
    total = sum(place.size for place in found)
    if not total:
        return ""
    tiles = [Tile(place.path, place.size, _top(place.path)) for place in found]
    title = "Stored bytes by directory"

    def draw(width: int, ident: str) -> Svg:
        return treemap(tiles, (width, 460 if width > 600 else 420), title, ident)

    rows = [(place.path, format_size(place.size), f"{place.size / total:.1%}") for place in found]
    told = table(
        title, ["Directory", "Stored", "Part"], rows, total=("all", format_size(total), "")
    )
    return (
        "<section><h2>Where the bytes are</h2>\n<p>Stored file contents by directory, each byte "
        "once: where it was met first.</p>\n"
        f"{twice(draw, 'places')}{folded('The numbers', told)}</section>"
    )


def packages(found: Sequence[PackageHeld]) -> str:
    """Return whose the bytes are; nothing where no file belongs to a package."""
    if not any(each.kind for each in found):
        return ""
    first, rest = found[:PACKAGES_SHOWN], found[PACKAGES_SHOWN:]
    named = [(each.name, each.kind, each.size) for each in first]
    for kind in sorted({each.kind for each in rest}):
        sizes = [each.size for each in rest if each.kind == kind]
        named.append((f"{len(sizes):,} more", kind, sum(sizes)))
    total = sum(each.size for each in found)
    tiles = [Tile(name, size, kind or name) for name, kind, size in named]
    title = "Stored bytes by package"

    def draw(width: int, ident: str) -> Svg:
        return treemap(tiles, (width, 460 if width > 600 else 420), title, ident, headed=True)

    rows = [(name, kind, format_size(size), f"{size / total:.1%}") for name, kind, size in named]
    told = table(
        title, ["Package", "Kind", "Stored", "Part"], rows, texts=2,
        total=("all", "", format_size(total), ""),
    )  # fmt: skip
    return (
        "<section><h2>Whose the bytes are</h2>\n<p>The same bytes by package, with its version: of "
        "dpkg, apk, rpm, pip and npm. What a later layer upgrades or removes is the older "
        f"package's.</p>\n{twice(draw, 'packages')}{folded('The packages', told)}</section>"
    )


def _top(path: str) -> str:
    parts = path.split("/")
    return "/".join(parts[:3] if parts[1] == "usr" else parts[:2])


def transfers(taken: Transfers) -> str:
    """Return what pulls carry."""
    steps = [
        Step("full_copies", "full copies", "every file of every image", taken.full_size),
        Step("compressed_layers", "compressed layers", "each once a host: docker pull",
             taken.layers_size),
        Step("stored", "layerstore, by parcels", "what the host has not, once a host",
             taken.parcels_size),
    ]  # fmt: skip
    times = [
        step._replace(note=f"{step.size / taken.parcels_size:.1f}x" if taken.parcels_size else "")
        for step in steps
    ]
    rows = [(step.label, step.how, format_size(step.size), step.note) for step in times]
    title = "Bytes on the network"
    hosts = f"{taken.hosts} host{'s' * (taken.hosts != 1)}"
    return (
        f"<section><h2>What {hosts} pull</h2>\n<p>{taken.pulls} pulls into empty hosts, each in "
        "its order.</p>\n"
        + twice(lambda width, ident: bars(times, width, title, ident), "pulls")
        + table(title, ["Scheme", "What travels", "Bytes", "Times ours"], rows, texts=2, ours=[2],
                keys=[step.key for step in times])
        + "</section>"
    )  # fmt: skip


def memory(taken: Memory) -> str:
    """Return what the running views hold in memory."""
    sizes = [
        Step("full_copies", "each view its own", "as virtual machines", taken.per_view),
        Step("plain_layers", "each image its own", "as file systems of an image each",
             taken.per_image),
        Step("stored", "layerstore", "every page once", taken.used),
    ]  # fmt: skip
    steps = [
        step._replace(note=f"{step.size / taken.used:.1f}x" if taken.used else "") for step in sizes
    ]
    rows = [
        (image.name, image.backend, str(image.views), *map(format_size, (image.cached, image.shared,
         image.written, image.servers)))
        for image in taken.images
    ]  # fmt: skip
    title = "Page cache of the running views"
    return (
        "<section><h2>What running views hold in memory</h2>\n<p>Measured now, page by page, on "
        "the host of this store.</p>\n"
        + twice(lambda width, ident: bars(steps, width, title, ident), "memory")
        + table(title, ["Image", "Backend", "Views", "In memory", "Shared", "Written", "Servers"],
                rows, texts=2)
        + "".join(f'<p class="note">{shown(note)}</p>' for note in taken.notes)
        + "</section>"
    )  # fmt: skip


def images(savings: Savings) -> str:
    """Return the table of images."""
    rows = [
        (image_label(image), str(image.copies), *map(format_size, (image.logical_size,
         image.copy_size, image.exclusive_size, image.shared_size, image.added_size)))
        for image in savings.images
    ]  # fmt: skip
    total = (
        "all", str(savings.containers), format_size(savings.logical_size),
        format_size(savings.size_of(Scheme.FULL_COPIES)), "", "",
        format_size(savings.stored_content_size),
    )  # fmt: skip
    heads = ["Image", "Containers", "Files", "Full copy", "Exclusive", "Shared", "Added"]
    caption = (
        "Files and full copy count one container, in the last row all of them. Exclusive, shared "
        "and added are compressed bytes in this store; added is what was new with the image."
    )
    told = table(caption, heads, rows, total=total, whole=_whole(savings))
    if len(rows) > OPEN_ROWS_MAX:
        told = folded(f"All {len(rows)} images", told)
    return f"<section><h2>The images</h2>\n{told}</section>"


def footer(savings: Savings, made: str) -> str:
    """Return how things are counted."""
    notes = list(_COUNTED)
    if savings.has(Scheme.COMPRESSED_LAYERS):
        notes.append(
            "Compressed layers: the bytes under which a layer came, where they are known, else "
            "what gzip makes of it at level 6. Nothing runs off them."
        )
    if told := optimize_note(savings):
        notes.append(f"{told[0].upper()}{told[1:]}.")
    if savings.writable_size:
        notes.append(
            f"Writable layers hold {format_size(savings.writable_size)} more, the same in every "
            "scheme."
        )
    if savings.not_counted_size:
        notes.append(
            f"The store holds {format_size(savings.not_counted_size)} beside: other images, "
            "compressed originals, build cache, unreferenced bytes, files unpacked for views."
        )
    listed = "".join(f"<li>{shown(note)}</li>" for note in notes)
    return (
        f"<b>How it is counted</b><ul>{listed}</ul>"
        f"<p>Sizes in powers of 1000. Made by <code>layerstore savings</code>{shown(made)}.</p>"
    )
