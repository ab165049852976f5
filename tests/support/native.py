"""Helpers for tests of native specs: lowering without a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.graph import topological
from layerstore.build.lower_options import LowerOptions
from layerstore.build.native.frontend import Document, lower_targets
from layerstore.build.native.lockfile import NoLocks, chain_text
from layerstore.build.platforms import Platform
from layerstore.digest import DiffId
from layerstore.formats.oci_config import ContainerConfig, History, ImageConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layerstore.build.dockerfile.syntax import Notice
    from layerstore.build.frontends import Target
    from layerstore.build.graph import Op
    from layerstore.build.lint.rules import Finding
    from layerstore.build.native.includes import Root

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def layer(number: int) -> DiffId:
    return DiffId(f"sha256:{number:064x}")


def image(*layers: int, **config: object) -> ImageConfig:
    """Return the config of an image with these layers."""
    env = config.pop("env", (PATH,))
    return ImageConfig(
        architecture="amd64",
        config=ContainerConfig(env=env, **config),
        diff_ids=tuple(map(layer, layers)),
        history=tuple(History(created="", created_by=f"layer {each}") for each in layers),
    )


class FakeSources:
    """Images and files in memory."""

    def __init__(self) -> None:
        self.images = {"debian": image(1), "tools": image(1, 2), "other": image(7)}
        self.files: dict[str, str] = {}
        self.conflicting: Sequence[str] = ()
        self.bootstrapped: list[object] = []
        self.digests: dict[str, str] = {}

    def find(self, reference: str, _platform: object = None) -> ImageConfig | None:
        return self.images.get(reference)

    def pull(self, reference: str, platform: object) -> None:
        """Bring nothing."""

    def bootstrap(self, wish: object, span: object) -> str:
        self.bootstrapped.append(wish)
        return "debian"

    def registry_digest(self, name: str) -> str:
        return self.digests.get(name, "")

    def has_base(self, name: str, layers: str) -> bool:
        return name in self.images and chain_text(self.images[name].diff_ids) == layers

    def conflicts(self, stacks: Sequence[tuple[DiffId, ...]]) -> Sequence[str]:
        return self.conflicting

    def read(self, path: str, span: object) -> str:
        return self.files[path]


class Lowered(NamedTuple):
    """What a spec came to."""

    targets: list[Target]
    notices: list[Notice]
    findings: list[Finding]

    @property
    def state(self):
        (target,) = self.targets
        return target.plan.state

    @property
    def config(self) -> ContainerConfig:
        return self.state.config

    @property
    def ops(self) -> list[Op]:
        return [vertex.op for vertex in topological(self.state.vertex)]

    @property
    def told(self) -> list[str]:
        return [step.created_by for step in self.state.steps]


def options(**changes: object) -> LowerOptions:
    plain = {
        "build_args": {}, "labels": {}, "target": None, "network": True,
        "platform": Platform("linux", "amd64"),
    }  # fmt: skip
    return LowerOptions(**{**plain, **changes})  # type: ignore[arg-type]


def lowered(
    text: str,
    *,
    sources: FakeSources | None = None,
    root: Root | None = None,
    tags: Sequence[str] = (),
    wanted: Sequence[str] = (),
    epoch: int | None = None,
    locks: object | None = None,
    build_args: Mapping[str, str] | None = None,
    target: str | None = None,
    no_cache_stages: Sequence[str] = (),
) -> Lowered:
    """Lower a spec without a store."""
    sources = sources or FakeSources()
    document = Document(text.encode(), "layerstore.toml", root)
    made = lower_targets(
        document,
        options(build_args=build_args or {}, target=target, no_cache_stages=no_cache_stages),
        sources,
        sources,
        locks or NoLocks(),  # type: ignore[arg-type]
        epoch=epoch,
        tags=tags,
        wanted=wanted,
    )
    return Lowered(made.targets, made.notices, made.findings)
