"""What ``images`` leaves out: docker's filters, and patterns in the place of a name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.catalog.rows import ImageRecord

FILTERS = ("reference", "dangling", "label", "before", "since")
WILDCARDS = "*?["


def matches(name: str, pattern: str) -> bool:
    """Whether a name with its tag, or its repository alone, is what a pattern of a shell means.

    As docker's, a ``*`` stops at slashes.
    """
    parts = re.split(r"(\*|\?|\[[^]]*\])", pattern)
    wanted = "".join(
        {"*": "[^/]*", "?": "[^/]"}.get(part) or (part if number % 2 else re.escape(part))
        for number, part in enumerate(parts)
    )
    try:
        found = re.compile(wanted)
    except re.error as err:
        raise InputError(f"{pattern!r} is not a pattern: {err}") from err
    return any(found.fullmatch(each) for each in (name, name.rpartition(":")[0]))


def filtered(
    images: Sequence[ImageRecord],
    names: Mapping[str, list[str]],
    words: Sequence[str],
    catalog: Catalog,
) -> tuple[list[ImageRecord], dict[str, list[str]]]:
    """Return the images, and those of their names, that filters leave.

    Of one filter any value will do, of several filters each must, as for docker.

    Raises:
        InputError: No filter is called that, or its value means nothing.
        ImageNotFoundError: ``before`` or ``since`` name no image.
    """
    values: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in FILTERS or not equals:
            raise InputError(f"no filter {word!r}", hint=f"NAME=VALUE of {', '.join(FILTERS)}")
        values.setdefault(name, []).append(value)
    left = dict(names)
    if patterns := values.pop("reference", []):
        left = {
            image_id: found
            for image_id, some in names.items()
            if (found := [n for n in some if any(matches(n, p) for p in patterns)])
        }
        images = [image for image in images if image.image_id in left]
    for name, wanted in values.items():
        passes = _TESTS[name](wanted, left, catalog)
        images = [image for image in images if passes(image)]
    return list(images), left


def _dangling(
    values: Sequence[str], names: Mapping[str, list[str]], _catalog: Catalog
) -> Callable[[ImageRecord], bool]:
    wanted = {_truth(value) for value in values}
    return lambda image: (not names.get(image.image_id)) in wanted


def _truth(value: str) -> bool:
    if value.lower() not in ("true", "false", "1", "0"):
        raise InputError(f"dangling is true or false, not {value!r}")
    return value.lower() in ("true", "1")


def _label(
    values: Sequence[str], _names: Mapping[str, list[str]], catalog: Catalog
) -> Callable[[ImageRecord], bool]:
    from layerstore.image.images import load_config
    from layerstore.store.store import Store

    pairs = [value.partition("=") for value in values]
    store = Store.open(catalog.paths.root, create=False)

    def passes(image: ImageRecord) -> bool:
        labels = load_config(store, image.image_id).config.labels
        # Labels are to be there all, whatever is said of other filters: as for docker.
        return all(key in labels and (not eq or labels[key] == v) for key, eq, v in pairs)

    return passes


def _beside(*, newer: bool) -> Callable[..., Callable[[ImageRecord], bool]]:
    """Return the test for images made after, or before, all that are named."""

    def test(
        values: Sequence[str], _names: Mapping[str, list[str]], catalog: Catalog
    ) -> Callable[[ImageRecord], bool]:
        from layerstore.store.names.names import resolve

        times = [resolve(catalog, value).created for value in values]
        if newer:
            return lambda image: image.created > max(times)
        return lambda image: image.created < min(times)

    return test


_TESTS: dict[str, Callable[..., Callable[[ImageRecord], bool]]] = {
    "dangling": _dangling,
    "label": _label,
    "before": _beside(newer=False),
    "since": _beside(newer=True),
}
