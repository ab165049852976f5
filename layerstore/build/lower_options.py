"""What the lowering of a spec is asked, what it asks for, and what it comes to."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from layerstore.build.base_images import Pull

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from layerstore.build.contexts import LayoutContext, NamedSource
    from layerstore.build.dockerfile.syntax import Notice
    from layerstore.build.platforms import Platform
    from layerstore.build.stage import StageState
    from layerstore.formats.oci_config import ImageConfig

SYNTAX_ARG = "BUILDKIT_SYNTAX"
DISABLE_ONBUILD_ARG = "BUILDKIT_DISABLE_ONBUILD"
KEEP_GIT_DIR_ARG = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
MEANINGFUL_ARGS = frozenset(
    (
        "SOURCE_DATE_EPOCH",
        SYNTAX_ARG,
        DISABLE_ONBUILD_ARG,
        KEEP_GIT_DIR_ARG,
        "BUILDKIT_DOCKERFILE_CHECK",
    )
)
"""Build arguments that mean something without an ARG."""

PROXY_ARGS = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
"""Build arguments that RUN gets without an ARG, in any case."""


class Images(Protocol):
    """Finds base images."""

    def find(self, reference: str, platform: Platform | None = None) -> ImageConfig | None:
        """Return the config of a stored image, None when there is none of that name.

        Of an index it is that of the image for a platform, else for the result's.
        """

    def pull(self, reference: str, platform: Platform) -> ImageConfig | None:
        """Return the config of an image that comes from its registry; None if nothing is pulled.

        Raises:
            RegistryError: The registry does not give it.
            NotFoundError: It has none, or none for this platform.
        """

    def layout(self, source: LayoutContext) -> ImageConfig:
        """Return the config of an image of an OCI layout, whose layers the store has then."""


class LowerOptions(NamedTuple):
    """What the command line adds to the Dockerfile.

    Attributes:
        allow: Entitlements that steps may use.
        extra_hosts: Names and addresses for every RUN's ``/etc/hosts``.
        platform: What the result is for.
        build_platform: What runs here; None when that is the same.
        is_platform_given: ``--platform`` asked for it: base images must be for it.
        pulls: ``--pull``: when base images come from a registry.
        secrets: Ids of those that are given; their values are nobody's business here.
        agents: Ids of the ssh agents that are given.
        contexts: What stands in the place of names (``--build-context``).
        one_id: There is no user but root where RUN runs.
        shown: What labels of steps begin with, in a build for several platforms.
        no_cache_stages: Names or numbers of stages whose steps always run.
    """

    build_args: Mapping[str, str]
    labels: Mapping[str, str]
    target: str | None
    network: bool
    platform: Platform
    no_cache_stages: Sequence[str] = ()
    allow: frozenset[str] = frozenset()
    extra_hosts: tuple[tuple[str, str], ...] = ()
    build_platform: Platform | None = None
    is_platform_given: bool = False
    pulls: Pull = Pull.MISSING
    secrets: Collection[str] = ()
    agents: Collection[str] = ()
    contexts: Mapping[str, NamedSource] = MappingProxyType({})
    one_id: bool = False
    shown: str = ""

    @property
    def native(self) -> Platform:
        """What runs on this host without help."""
        return self.build_platform or self.platform


class Plan(NamedTuple):
    """A lowered spec.

    Attributes:
        state: The target stage at its end.
        unused_args: Build arguments that nothing declared.
        stages: Numbers of the stages it needs.
        history_comment: Says by which rules the history is written, as other builders of
            Dockerfiles do.
        notices: What was accepted with a remark.
    """

    state: StageState
    unused_args: tuple[str, ...]
    stages: frozenset[int] = frozenset()
    history_comment: str = "buildkit.dockerfile.v0"
    notices: tuple[Notice, ...] = ()
