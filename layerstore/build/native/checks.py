"""What is doubtful in a native spec though it can be built: the build checks for it.

They are told under docker's names where docker has the rule. What is wrong is an error, whoever
asks.

Reference: docs/reference/layerstore-toml.md, "Checking".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.build.lint.rules import SECRETS_USED_IN_ARG_OR_ENV, Finding, Rule
from layerstore.build.lint.shape import looks_secret
from layerstore.formats.oci_config import ImageConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from layerstore.build.contexts import LayoutContext
    from layerstore.build.dockerfile.syntax import SourceSpan
    from layerstore.build.native.bases import Sources
    from layerstore.build.native.reader import Node
    from layerstore.build.native.spec import Bootstrap
    from layerstore.build.platforms import Platform
    from layerstore.digest import DiffId

UNUSED_ARGUMENT = Rule("UnusedArgument", "Arguments and axes that nothing uses have no effect")
UNUSED_STAGE = Rule("UnusedStage", "Stages that nothing needs are not built")


def spec_findings(
    node: Node, used: Collection[str], stages: Collection[str] | None
) -> Iterator[Finding]:
    """Yield what is doubtful in a spec.

    Args:
        node: Everything merged.
        used: Names that some ``{{...}}`` held.
        stages: Those that were needed; None if the command line chose one.
    """
    for table, what in (("args", "argument"), ("matrix", "axis")):
        for name, item in _members(node.get(table)):
            if name not in used and (table, name) != ("matrix", "exclude"):
                yield Finding(
                    UNUSED_ARGUMENT, f"the {what} {name} is used by nothing", item.key_span
                )
            if table == "args" and looks_secret(name):
                yield _secret(name, "the argument", item.key_span)
    for name, item in _members(node.get("stages")):
        if stages is not None and name not in stages:
            yield Finding(UNUSED_STAGE, f"nothing needs the stage {name}", item.key_span)
    yield from _secret_variables(node)


def _secret_variables(node: Node) -> Iterator[Finding]:
    """Yield variables of every ``env`` that sound like secrets."""
    if isinstance(node.value, list):
        for each in node.value:
            yield from _secret_variables(each)
    for key, item in _members(node):
        if key == "env" and isinstance(item.value, dict):
            for name, value in item.value.items():
                if looks_secret(name):
                    yield _secret(name, "the variable", value.key_span)
        else:
            yield from _secret_variables(item)


def _secret(name: str, what: str, span: SourceSpan) -> Finding:
    detail = f"{what} {name} sounds like a secret, and ends in the image: see secrets of a command"
    return Finding(SECRETS_USED_IN_ARG_OR_ENV, detail, span)


def _members(node: Node | None) -> list[tuple[str, Node]]:
    return list(node.value.items()) if node is not None and isinstance(node.value, dict) else []


class AssumedImages:
    """Images as a check takes them: those it cannot know are empty.

    Args:
        find: Returns the config of a stored image, None if it is not known.
        platform: Of the others.
    """

    def __init__(self, find: Callable[[str], ImageConfig | None], platform: Platform) -> None:
        self._find = find
        self._platform = platform

    def find(self, reference: str, _platform: Platform | None = None) -> ImageConfig:
        """Return a config."""
        found = self._find(reference)
        if found is not None:
            return found
        platform = self._platform
        return ImageConfig(
            architecture=platform.architecture, os=platform.os, variant=platform.variant
        )

    def pull(self, reference: str, platform: Platform) -> None:
        """Bring nothing: what is not there is assumed."""

    def layout(self, source: LayoutContext) -> ImageConfig:
        """Native specs name no layouts."""
        raise AssertionError(source)


class AssumedSources:
    """What a check takes for granted: bases can be made and combined.

    Args:
        sources: Reads files.
    """

    def __init__(self, sources: Sources) -> None:
        self.read = sources.read

    def bootstrap(self, wish: Bootstrap, span: SourceSpan) -> str:  # noqa: ARG002 -- protocol's
        """Return the empty root."""
        return "scratch"

    def registry_digest(self, name: str) -> str:  # noqa: ARG002
        """Return none."""
        return ""

    def has_base(self, name: str, layers: str) -> bool:  # noqa: ARG002
        """Take what is there."""
        return True

    def conflicts(self, stacks: Sequence[tuple[DiffId, ...]]) -> Sequence[str]:  # noqa: ARG002
        """Return none."""
        return ()
