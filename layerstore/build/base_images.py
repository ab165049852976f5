"""Base images: out of the store, or out of their registries, as the command line says."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.platforms import normalized
from layerstore.errors import NotFoundError, RegistryError
from layerstore.formats.reference import ReferenceSyntaxError

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import SourceSpan
    from layerstore.build.lower_options import Images, LowerOptions
    from layerstore.build.platforms import Platform
    from layerstore.formats.oci_config import ImageConfig
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store


class Pull(enum.StrEnum):
    """When base images come from their registries, in buildah's words.

    ``MISSING``: those that the store lacks, or has for another platform. ``ALWAYS``: all, and
    it is an error if one does not. ``NEWER``: all, but the store's serve where no registry gives
    one. ``NEVER``: none.
    """

    MISSING = "missing"
    ALWAYS = "always"
    NEWER = "newer"
    NEVER = "never"


class Puller(Protocol):
    """Brings images into a store."""

    def __call__(self, store: Store, reference: str, platform: Platform) -> ImageRecord:
        """Return the image that a name means in its registry; the store has it then.

        Raises:
            RegistryError: The registry does not give it.
            NotFoundError: It has none, or none for this platform.
        """


def base_config(
    reference: str,
    options: LowerOptions,
    images: Images,
    span: SourceSpan,
    *,
    hint: str = "",
    platform: Platform | None = None,
) -> ImageConfig:
    """Return the config of an image that a spec names.

    Args:
        reference: The name.
        options: What the command line says.
        images: Finds it.
        span: Where it is asked for.
        hint: What to do if there is none; get it first, by default.
        platform: What it must be for; None for what the store has, else what the result is for.

    Raises:
        SpecError: No such image, or it must come from elsewhere and does not; or that is no name
            of one (``FROM debian:$UNSET``).
    """
    policy = options.pulls
    try:
        found = images.find(reference, platform) if policy is not Pull.ALWAYS else None
    except ReferenceSyntaxError as err:
        raise SpecError(err.message, span, hint=err.hint) from err
    if found is not None and policy is not Pull.NEWER and _serves(found, platform):
        return found
    why = ""
    if policy is not Pull.NEVER:
        try:
            pulled = images.pull(reference, platform or options.platform)
        except ReferenceSyntaxError as err:
            raise SpecError(err.message, span, hint=err.hint) from err
        except (RegistryError, NotFoundError) as err:
            why = f", and it cannot be pulled: {err.message}"
            hint = err.hint or hint
        else:
            if pulled is not None:
                return pulled
    if found is not None:
        if why and platform is not None and not _serves(found, platform):
            raise SpecError(
                f"{reference} is an image for {_platform_of(found)}, not for {platform}{why}", span,
                hint=hint,
            )  # fmt: skip
        return found  # one for another platform is told with the place where that is wanted
    if policy is Pull.ALWAYS:
        raise SpecError(
            f"--pull wants {reference!r} from its registry{why}", span,
            hint=hint or "leave --pull out to use the image in the store",
        )  # fmt: skip
    raise SpecError(
        f"there is no image {reference!r} in the store{why}", span,
        hint=hint or f"get it first: layerstore import ROOTFS.tar -t {reference}",
    )  # fmt: skip


def _serves(config: ImageConfig, wanted: Platform | None) -> bool:
    return wanted is None or _platform_of(config).serves(wanted)


def _platform_of(config: ImageConfig) -> Platform:
    return normalized(config.os, config.architecture, config.variant)
