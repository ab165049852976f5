"""Builds for suggest: the specs as they are, and again over the bases that are proposed.

Proofs happen in two stores made for them and removed afterwards: one has the images as they are,
one those over the proposals, so that both are measured alone.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from layerstore.errors import InputError, NotFoundError
from layerstore.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from layerstore.build.base_images import Puller
    from layerstore.build.platforms import Platform
    from layerstore.build.request import BuildRequest
    from layerstore.build.ui import BuildUi
    from layerstore.measure.suggest import Base, Costs, Group
    from layerstore.store.catalog.rows import ImageRecord


class SpecBuilds:
    """Builds specs, all with the same build arguments and secrets."""

    def __init__(self, build_args: Sequence[str], secrets: Sequence[str], ui: BuildUi) -> None:
        self._build_args = build_args
        self._secrets = secrets
        self._ui = ui

    def built(self, store: Store, specs: Sequence[str]) -> dict[str, ImageRecord]:
        """Build specs, without a name, and return their images by what they were called.

        Raises:
            InputError: A spec is for several images, or is called as another.
            BuildError: A step failed.
        """
        from layerstore.build.api import build

        found: dict[str, ImageRecord] = {}
        for spec in specs:
            if spec in found:
                raise InputError(f"{spec} is named twice")
            found[spec] = build(store, self._request(spec), self._ui).image
        return found

    def proved(
        self, store: Store, groups: Sequence[Group], images: Mapping[str, ImageRecord]
    ) -> dict[str, tuple[Costs, Costs]]:
        """Build what is proposed; return what each group takes before and after.

        Args:
            store: Which has the images and what they were built from.
            groups: With their proposals; those without any are left out.
            images: By the names of their specs.

        Raises:
            InputError: What the images of a group have in common has no name.
            BuildError: A step failed.
        """
        from layerstore.measure.suggest import costs_of

        measured = {}
        for group in groups:
            if not group.bases:
                continue
            if not group.base:
                raise InputError(
                    f"what {', '.join(group.images)} have in common has no name to be replaced",
                    hint="layerstore tag IMAGE NAME, for the image that they are made from",
                )
            with tempfile.TemporaryDirectory(prefix="layerstore-prove-") as folder:
                with Store.open(Path(folder) / "before", create=True) as scratch:
                    copies = [_copied(store, scratch, images[name]) for name in group.images]
                    before = costs_of(scratch, copies)
                with Store.open(Path(folder) / "after", create=True) as scratch:
                    after = costs_of(scratch, self._built_over(store, scratch, group, folder))
            measured[group.images[0]] = (before, after)
        return measured

    def _built_over(
        self, store: Store, scratch: Store, group: Group, folder: str
    ) -> list[ImageRecord]:
        """Build the proposed bases of a group, and each spec over the highest that is for it."""
        from layerstore.build.api import build
        from layerstore.build.contexts import ImageContext
        from layerstore.measure.base_specs import dockerfile_of

        puller = _puller(store)
        nothing = Path(folder) / "nothing"
        nothing.mkdir()
        base_of: dict[str, Base] = {}
        changed = {spec for base in group.bases for spec in base.npm_install_in}
        for base in group.bases:
            text = dockerfile_of(base).encode()
            build(scratch, self._base_request(nothing, text, base.name, puller), self._ui)
            base_of.update(dict.fromkeys(base.images, base))
        made = []
        for spec in group.images:
            named = {}
            if spec in base_of:
                reference = ImageContext(base_of[spec].name)
                named = {name: reference for name in group.base_names if "@" not in name}
            request = self._request(spec)
            if spec in changed:
                request = keeping_modules(request)
            request = msgspec.structs.replace(request, named_contexts=named, puller=puller)
            made.append(build(scratch, request, self._ui).image)
        return made

    def _base_request(self, context: Path, text: bytes, name: str, puller: Puller) -> BuildRequest:
        from layerstore.build.request import BuildRequest
        from layerstore.cli.build.values import with_values

        request = BuildRequest(context=context, dockerfile_text=text, tags=(name,), puller=puller)
        return with_values(request, (), None, self._secrets)

    def _request(self, spec: str) -> BuildRequest:
        """Return what builds a spec: a file in its directory, or what a directory holds."""
        from layerstore.cli.build.bases import registry_puller
        from layerstore.cli.build.request import new_request
        from layerstore.cli.build.values import with_values

        is_folder = os.path.isdir(spec)
        directory, file = (spec, None) if is_folder else (os.path.dirname(spec) or ".", spec)
        request = new_request(directory, file, None, None, no_cache=False, network="default")
        request = with_values(request, self._build_args, None, self._secrets)
        return msgspec.structs.replace(request, puller=registry_puller(), tags=())


def keeping_modules(request: BuildRequest) -> BuildRequest:
    """Return the build of a Dockerfile with ``npm install`` for ``npm ci``, as is proposed.

    Everything else is as the file itself has it, the rules of its own ``.dockerignore`` too.

    Raises:
        InputError: A file cannot be read.
    """
    from layerstore.build.contexts import HostFiles
    from layerstore.build.spec_file import SPEC_NAMES, ignore_name
    from layerstore.measure import placed

    assert isinstance(request.context, Path)
    places = [request.dockerfile or Path(), *(request.context / name for name in SPEC_NAMES)]
    file = next(place for place in places if place.is_file())
    text = placed.keeping_modules(file.read_text("utf-8", "surrogateescape"))
    return msgspec.structs.replace(
        request,
        dockerfile=file,
        dockerfile_text=text.encode("utf-8", "surrogateescape"),
        dockerignore_text=HostFiles().read(ignore_name(str(file))),
    )


def _puller(source: Store) -> Puller:
    """Return what brings base images out of the user's store, and from registries what it lacks."""
    from layerstore.cli.build.bases import registry_puller

    def pull(store: Store, reference: str, platform: Platform) -> ImageRecord:
        from layerstore.formats.reference import parse_tag_name

        try:
            image = source.resolve(reference)
        except NotFoundError:
            return registry_puller()(store, reference, platform)
        copy = _copied(source, store, image)
        store.tag(parse_tag_name(reference), copy.image_id)
        return copy

    return pull


def _copied(store: Store, scratch: Store, image: ImageRecord) -> ImageRecord:
    """Copy an image into another store, by way of a layout; return it."""
    from layerstore.image.exchange.originals import Originals
    from layerstore.image.layouts.layout import NamedImage, save_oci_layout
    from layerstore.image.layouts.loading import Choice, load_directory
    from layerstore.progress import Silent

    everything: Callable[[object], bool] = lambda _: True  # noqa: E731 -- any platform will do
    with tempfile.TemporaryDirectory(prefix="layerstore-prove-") as folder:
        layout = Path(folder)
        save_oci_layout(store, [NamedImage(None, image)], layout / "layout", compression="none")
        choice = Choice(everything, all_platforms=False, originals=Originals.DROP)
        (loaded,) = load_directory(scratch, layout / "layout", choice, Silent())
    return loaded.image
