"""What a build can be described by: a Dockerfile, or a native spec.

A frontend has read a spec and lowers it to the images that are to be built. The native one is
imported when a spec asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.checking import findings_of
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.parser import parse_dockerfile
from layerstore.build.dockerfile.syntax import Notice, SourceSpan
from layerstore.build.lower import lower
from layerstore.build.platforms import platform_args
from layerstore.errors import InputError
from layerstore.formats.reference import parse_tag_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.lint.meaning import Surroundings
    from layerstore.build.lint.rules import Finding
    from layerstore.build.lower_options import Images, LowerOptions, Plan
    from layerstore.build.ui import BuildUi


class Target(NamedTuple):
    """An image to build.

    Attributes:
        label: Which variant of its spec it is; empty if there is only one.
        names: Full names it is to have.
        plan: Its graph.
    """

    label: str
    names: tuple[str, ...]
    plan: Plan


class DockerfileFrontend:
    """A Dockerfile.

    Args:
        text: Its bytes.
        filename: What messages call it.
        tags: Names of the image, as a user writes them; ``{{TARGETARCH}}`` and the like in
            them is what the image is for.
        ui: Hears of what is worth a word.
    """

    def __init__(self, text: bytes, filename: str, tags: Sequence[str], ui: BuildUi) -> None:
        self._tags = tags
        self._text = text
        self._dockerfile = parse_dockerfile(text, filename)
        for notice in self._dockerfile.notices:
            if not notice.rule:  # else a build check tells it, at the end
                ui.warning(notice)

    def targets(self, options: LowerOptions, images: Images, ui: BuildUi) -> list[Target]:
        """Return the one image."""
        plan = lower(self._dockerfile, options, images)
        for notice in plan.notices:
            ui.warning(notice)
        warn_of_unused(plan.unused_args, self._dockerfile.stages[0].span.file, "ARG", ui)
        names = tuple(parse_tag_name(_for_platform(tag, options)) for tag in self._tags)
        return [Target("", names, plan)]

    def findings(self, around: Surroundings, targets: Sequence[Target]) -> list[Finding]:
        """Return what the rules of Dockerfiles find."""
        stages = frozenset[int]().union(*(target.plan.stages for target in targets))
        return findings_of(self._dockerfile, self._text, around, stages)


def _for_platform(tag: str, options: LowerOptions) -> str:
    """Return a name for the image of one platform.

    Raises:
        InputError: It asks for what no platform has.
    """
    if "{{" not in tag:
        return tag
    from layerstore.build.native.templates import Expander

    try:
        expander = Expander(platform_args(options.native, options.platform))
        return expander.text(tag, SourceSpan(tag, 1, 1, 1))
    except SpecError as err:
        raise InputError(f"the name {tag}: {err.reason}", hint=err.hint) from err


def warn_of_unused(names: Sequence[str], file: str, where: str, ui: BuildUi) -> None:
    """Tell of build arguments that nothing declares."""
    for name in names:
        message = f"the build argument {name} is declared by no {where} and has no effect"
        ui.warning(Notice(message, SourceSpan(file, 1, 1, 1)))
