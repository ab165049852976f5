"""What ``build --platform`` and ``--pull`` mean, and options whose value may be left out.

Source: docker, buildx and buildah, ``build --pull`` and ``--platform`` (behaviour).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.base_images import Puller
    from layerstore.build.platforms import Platform
    from layerstore.build.request import BuildRequest
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store

_PULLS = {
    "always": "always",
    "true": "always",
    "newer": "newer",
    "missing": "missing",
    "false": "missing",
    "never": "never",
}
# What each option means without a value, and the values that may stand apart from it.
_BARE = {
    "--pull": ("always", re.compile("always|true|newer|missing|false|never")),
    "--provenance": ("true", re.compile("true|false|mode=.*")),
    "--sbom": ("true", re.compile("true|false")),
    "--plan": ("text", re.compile("text|dot|json")),
}


def with_bases(request: BuildRequest, platforms: Sequence[str], pull: str) -> BuildRequest:
    """Return the request with what its base images must be.

    Raises:
        InputError: No platform, or not a policy of pulling.
    """
    if pull not in _PULLS:
        raise InputError(
            f"{pull!r} does not say when to pull", hint="one of always, missing, never"
        )
    found: list[Platform] = []
    if platforms:
        from layerstore.build.platforms import native_platform, platform_of

        words = [word for text in platforms for word in text.split(",")]
        found = list(dict.fromkeys(platform_of(word, native_platform()) for word in words))
    from layerstore.build.base_images import Pull

    pulls = Pull(_PULLS[pull])
    if len(found) > 1:
        return msgspec.structs.replace(request, platforms=tuple(found), pulls=pulls)
    return msgspec.structs.replace(request, platform=found[0] if found else None, pulls=pulls)


def registry_puller() -> Puller:
    """Return what brings base images from their registries.

    Of another platform than this host's an image does not take the name from one that runs here.
    """

    def pull(store: Store, reference: str, platform: Platform) -> ImageRecord:
        from functools import partial

        from layerstore.build.platforms import native_platform
        from layerstore.cli.transfer.copy_images import serving
        from layerstore.cli.transfer.registries import registry_client
        from layerstore.cli.transfer.signatures import policy_gate
        from layerstore.cli.transfer.transports import named_reference
        from layerstore.image.exchange.originals import Originals
        from layerstore.image.exchange.registry_places import RegistrySource
        from layerstore.image.pulling import Puller as ImagePuller
        from layerstore.progress import Silent

        name = named_reference(reference)
        with registry_client() as client:
            repository = client.repository(name)
            permit = partial(policy_gate(None), name, RegistrySource(repository))
            puller = ImagePuller(
                store, repository, serving(str(platform)), originals=Originals.AUTO,
                progress=Silent(), permit=permit,
            )  # fmt: skip
            is_own = platform.serves(native_platform())
            return puller.pull(name, takes_name=is_own).image

    return pull


def spelled_out(words: Sequence[str]) -> list[str]:
    """Return a command line in which options that may stand alone have their value.

    ``--pull .`` is the option and a directory; ``--pull never .`` has a value.
    """
    line: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*line, word, *rest]
        if word in _BARE:
            bare, values = _BARE[word]
            value = rest.pop(0) if rest and values.fullmatch(rest[0]) else bare
            word = f"{word}={value}"
        line.append(word)
    return line
