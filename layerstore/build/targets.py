"""The images that a request is for: one, the variants of a native spec, one for each platform.

All of them are lowered before anything runs and solved as one graph, so what they have in common
runs once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.build.outputs import OutputKind
from layerstore.build.solving import images_of, lower_options
from layerstore.build.ui import SilentUi
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.build.frontends import Target
    from layerstore.build.graph import Vertex
    from layerstore.build.opening import Sources
    from layerstore.build.platforms import Platform
    from layerstore.build.request import BuildRequest
    from layerstore.build.result import StoredImages
    from layerstore.build.ui import BuildUi
    from layerstore.store.store import Store


class Wanted(NamedTuple):
    """An image that a request is for.

    Attributes:
        request: For this image's platform alone.
        images: The bases that it asked for.
        platform: Empty unless the request is for several.
    """

    request: BuildRequest
    target: Target
    images: StoredImages
    platform: str

    @property
    def vertex(self) -> Vertex:
        """What the image is made from."""
        return self.target.plan.state.vertex

    @property
    def label(self) -> str:
        """What tells it from the others; empty if there are none."""
        return " ".join(word for word in (self.platform, self.target.label) if word)


def wanted_images(
    store: Store, request: BuildRequest, sources: Sources, ui: BuildUi
) -> list[Wanted]:
    """Return the images that a request is for, lowered.

    Raises:
        SpecError: The spec is wrong; has file, line and column.
        InputError: The request is.
    """
    several = len(request.platforms) > 1
    found: list[Wanted] = []
    for number, platform in enumerate(request.platforms or (request.platform,)):
        one = msgspec.structs.replace(request, platform=platform, platforms=())
        images = images_of(store, one, sources, ui)
        shown = _shown(platform) if several else ""
        options = lower_options(one)._replace(shown=shown)
        # What is worth a word is so for each platform: it is told once.
        targets = sources.frontend.targets(options, images, SilentUi() if number else ui)
        found += [Wanted(one, target, images, shown) for target in targets]
    return found


def _shown(platform: Platform | None) -> str:
    return "" if platform is None else str(platform)


def check_outputs(wanted: Sequence[Wanted], request: BuildRequest, at_most: int | None) -> None:
    """Refuse several images where only one goes, before anything runs.

    Raises:
        InputError: Says how to ask for one, or for all of them.
    """
    variants = {each.target.label for each in wanted}
    elsewhere = any(output.kind is not OutputKind.IMAGE for output in request.outputs)
    if len(variants) > (1 if elsewhere else at_most or len(variants)):
        reason = "an output holds one" if elsewhere else "one was asked for"
        raise InputError(
            f"the spec describes {len(variants)} images, {reason}",
            hint=f"choose a variant: --variant {wanted[0].target.label}",
        )
    if len(request.platforms) > 1:
        _check_platforms(wanted, request, at_most)


def _check_platforms(wanted: Sequence[Wanted], request: BuildRequest, at_most: int | None) -> None:
    first = request.platforms[0]
    if at_most == 1:
        raise InputError(
            f"the build is for {len(request.platforms)} platforms, one was asked for",
            hint=f"build for each alone: --platform {first}",
        )
    for output in request.outputs:
        if output.kind is OutputKind.DOCKER:
            raise InputError(
                "docker load takes an image for one platform",
                hint="--output type=oci,dest=FILE holds all; or build for each alone",
            )
        if output.kind in {OutputKind.TAR, OutputKind.LOCAL} and output.splits is False:
            raise InputError(
                "files for several platforms cannot lie in one place",
                hint="leave platform-split=false out",
            )
    taken: dict[tuple[str, str], Wanted] = {}
    for name, each in _stored_names(wanted, request):
        other = taken.setdefault((name, each.platform), each)
        if other is not each:
            raise InputError(
                f"the images {other.label} and {each.label} would both be {name} in the store, "
                "whose index has one image for each platform",
                hint="give each variant a name of its own, or choose one: --variant NAME",
            )


def _stored_names(wanted: Sequence[Wanted], request: BuildRequest) -> Iterator[tuple[str, Wanted]]:
    """Yield the names that images get in the store, each with its image."""
    for output in request.outputs:
        if output.kind is OutputKind.IMAGE:
            for each in wanted:
                for name in dict.fromkeys([*each.target.names, *output.names]):
                    yield name, each
