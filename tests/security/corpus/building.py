"""Builds inside of cases: a shared store with a small base, a context, a Dockerfile."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from layerstore.build.api import build
from layerstore.build.request import BuildRequest
from layerstore.errors import NotFoundError
from layerstore.formats.tree import Entry, Kind
from layerstore.image.layers.layer_writer import LayerItem
from layerstore.image.layers.layers import load_changeset
from tests.security.corpus.model import Case, Way
from tests.support.build import RecordingUi, add_base, add_image, tree_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from layerstore.store.store import Store
    from tests.security.corpus.model import Place
    from tests.support.build import File

RUNC = ("root", "runc")
"""What a case needs that runs commands."""


class Built:
    """What came of a build.

    Attributes:
        ui: With the output and the notices.
        files: Of the image.
    """

    def __init__(self, ui: RecordingUi, files: Mapping[str, File]) -> None:
        self.ui = ui
        self.files = files


def built(place: Place, dockerfile: str | bytes, files: Mapping[str, str | bytes] | None = None,
          *, on_output: Callable[[bytes], object] | None = None, **options: object
          ) -> Built:  # fmt: skip
    """Build in the shared store; the context is ``scratch/context`` and may hold more already."""
    context = place.scratch / "context"
    context.mkdir(exist_ok=True)
    for name, content in (files or {}).items():
        path = context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    text = dockerfile if isinstance(dockerfile, bytes) else dockerfile.encode()
    ui = RecordingUi()
    if on_output is not None:
        ui.output = lambda _number, data: on_output(data)  # type: ignore[method-assign]
    request = BuildRequest(
        context=options.pop("context", context), dockerfile_text=text,
        dockerfile=place.scratch / "Dockerfile", **options,  # type: ignore[arg-type]
    )  # fmt: skip
    with place.store() as store:
        result = build(store, request, ui)
        return Built(ui, tree_of(store, result.image))


def with_base(place: Place) -> None:
    """Have the image ``box`` in the store: a shell and the usual files."""
    with place.store() as store:
        _base(store)


def _base(store: Store):
    try:
        return store.resolve("box:latest")
    except NotFoundError:
        return add_base(store)


def hostile_base(place: Place, name: str, *items: LayerItem, **config: object) -> None:
    """Store ``box`` with entries replaced."""
    with place.store() as store:
        base = _base(store)
        replaced = {item.entry.path for item in items}
        kept = [
            LayerItem(entry)
            for entry in load_changeset(store, base.layers[0]).entries
            if not any(
                entry.path == path or entry.path.startswith(path + b"/") for path in replaced
            )
        ]
        add_image(store, name, [*kept, *items], **config)


def link(path: str, target: bytes | str) -> LayerItem:
    """A symlink of an image."""
    return LayerItem(
        Entry(path=path.encode(), kind=Kind.SYMLINK, mode=0o777, target=os.fsencode(target))
    )


def spec(entry: str, name: str, verdict: str, dockerfile: str | bytes,
         files: Mapping[str, str | bytes] | None = None, *, says: str = "",
         check: Callable[[Built], object] | None = None, **more: object) -> Case:  # fmt: skip
    """Return a case of one Dockerfile, built."""

    def act(place: Place) -> None:
        if "runc" in more.get("needs", ()):  # type: ignore[operator]
            with_base(place)
        result = built(place, dockerfile, files)
        if check is not None:
            check(result)

    return Case(entry, name, (Way("build", verdict, act, says),), **more)  # type: ignore[arg-type]
