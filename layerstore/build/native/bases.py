"""What a stage of a native spec begins with: an image, or several in one.

Combined bases are merged (:mod:`layerstore.build.merging`): the first as it is, of the others
what they have beyond the longest beginning that they share with an earlier one. Nothing may be
decided by their order: a file that two of them bring and that is not the same in both is an
error, and so is a variable. That refuses what would break silently, above all two package
databases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.merging import own_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.dockerfile.syntax import SourceSpan
    from layerstore.build.native.spec import Bootstrap
    from layerstore.digest import DiffId
    from layerstore.formats.oci_config import ContainerConfig, History, ImageConfig

SHOWN_CONFLICTS = 5
_DPKG = ("var/lib/dpkg/", "var/lib/rpm/", "lib/apk/db/")
_PATH = "PATH"


class Sources(Protocol):
    """What lowering asks the outside for, besides configs of images."""

    def bootstrap(self, wish: Bootstrap, span: SourceSpan) -> str:
        """Return the name of the image that a bootstrap makes, making it if it is missing."""

    def registry_digest(self, name: str) -> str:
        """Return what the store's image of a name was called in its registry; else nothing."""

    def has_base(self, name: str, layers: str) -> bool:
        """Whether the store has an image of that name with these layers (a chain ID)."""

    def conflicts(self, stacks: Sequence[tuple[DiffId, ...]]) -> Sequence[str]:
        """Return paths that two stacks' own layers have with different content."""

    def read(self, path: str, span: SourceSpan) -> str:
        """Return a text file of the build context."""


def combined(
    names: Sequence[str], configs: Sequence[ImageConfig], sources: Sources, span: SourceSpan
) -> ImageConfig:
    """Return the config of several bases in one.

    The first says what its containers run. Variables, labels, ports and volumes of the others are
    added, and their directories of PATH stand behind its own.

    Args:
        names: Of the images.
        configs: Theirs.
        sources: Knows their files.
        span: For messages.

    Raises:
        SpecError: They cannot be combined.
    """
    first = configs[0]
    for name, config in zip(names, configs, strict=True):
        if (config.os, config.architecture) != (first.os, first.architecture):
            raise SpecError(
                f"cannot combine {names[0]} for {first.os}/{first.architecture} with {name} for "
                f"{config.os}/{config.architecture}", span,
            )  # fmt: skip
    stacks = [config.diff_ids for config in configs]
    _refuse_conflicts(names, sources.conflicts(stacks), span)
    history = [*first.history]
    for config, added in zip(configs[1:], own_layers(stacks), strict=True):
        history += _history_of_own(config.history, len(added.own))
    merged = first.config
    for name, config in zip(names[1:], configs[1:], strict=True):
        merged = _with_config(merged, config.config, name, span)
    return msgspec.structs.replace(first, config=merged, history=tuple(history))


def _refuse_conflicts(names: Sequence[str], paths: Sequence[str], span: SourceSpan) -> None:
    if not paths:
        return
    shown = ", ".join(f"/{path}" for path in paths[:SHOWN_CONFLICTS])
    more = len(paths) - SHOWN_CONFLICTS
    hint = "combine bases that bring different files, or copy from one of them: files, image = ..."
    if any(path.startswith(_DPKG) for path in paths):
        hint = (
            "each has packages of its own in its package database; begin with one of them and "
            "list the other's packages in [packages]"
        )
    raise SpecError(
        f"cannot combine {', '.join(names)}: they differ in {shown}"
        + (f" and {more} more" if more > 0 else ""),
        span, hint=hint,
    )  # fmt: skip


def _history_of_own(history: Sequence[History], count: int) -> list[History]:
    """Return the end of a history that has ``count`` layers."""
    if not count:
        return []
    end: list[History] = []
    for step in reversed(history):
        end.append(step)
        count -= not step.empty_layer
        if not count:
            break
    return end[::-1]


def _with_config(
    low: ContainerConfig, high: ContainerConfig, name: str, span: SourceSpan
) -> ContainerConfig:
    env = dict(item.partition("=")[::2] for item in low.env)
    for item in high.env:
        variable, _, value = item.partition("=")
        if variable == _PATH:
            env[_PATH] = _joined_path(env.get(_PATH, ""), value)
        elif env.setdefault(variable, value) != value:
            raise SpecError(
                f"cannot combine the bases: {name} sets {variable} to another value", span
            )
    return msgspec.structs.replace(
        low,
        env=tuple(f"{variable}={value}" for variable, value in env.items()),
        labels={**high.labels, **low.labels},
        exposed_ports=tuple(sorted({*low.exposed_ports, *high.exposed_ports})),
        volumes=tuple(sorted({*low.volumes, *high.volumes})),
    )


def _joined_path(low: str, high: str) -> str:
    directories = [each for each in (*low.split(":"), *high.split(":")) if each]
    return ":".join(dict.fromkeys(directories))
