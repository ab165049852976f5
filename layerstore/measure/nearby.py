"""Names that are nearly what was looked for, where nothing of that name is."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from layerstore.image.layers.layers import load_changeset

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store

NEAR_MAX = 3
"""Names that are told."""

_LONGER_MAX = 3
"""Characters that a near name may be longer or shorter: the others need not be compared."""

_LIKENESS = 0.75
_WILDCARDS = frozenset(b"*?[")


def near_words(word: str, known: Iterable[str]) -> list[str]:
    """Return known words that are nearly this one, the most similar first."""
    some = sorted({each for each in known if abs(len(each) - len(word)) <= _LONGER_MAX} - {word})
    return get_close_matches(word, some, n=NEAR_MAX, cutoff=_LIKENESS)


def near_paths(store: Store, images: Sequence[ImageRecord], text: bytes) -> list[bytes]:
    """Return what images have in the place of a path or name that is in none of them.

    Of a path these are names in its directory, else its name in other directories; of a name they
    are names anywhere. Of a pattern with wildcards nothing is said.

    Raises:
        IntegrityError: A layer's tree is damaged.
    """
    if _WILDCARDS & set(text):
        return []
    folder, slash, name = text.strip(b"/").rpartition(b"/")
    beside: set[bytes] = set()
    elsewhere: set[bytes] = set()
    for path in _paths(store, images):
        above, _, last = path.rpartition(b"/")
        if above == folder or b"/" not in text:
            beside.add(last)
        elif last == name:
            elsewhere.add(path)
    near = near_words(_text(name), map(_text, beside))
    prefix = b"/" + folder + slash if b"/" in text else b""
    found = [prefix + each.encode("utf-8", "surrogateescape") for each in near]
    return found or [b"/" + path for path in sorted(elsewhere)[:NEAR_MAX]]


def _paths(store: Store, images: Sequence[ImageRecord]) -> Iterator[bytes]:
    for diff_id in dict.fromkeys(layer for image in images for layer in image.layers):
        for entry in load_changeset(store, diff_id).entries:
            yield entry.path


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
