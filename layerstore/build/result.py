"""From solved steps to an image: its layers, its history, its config, and what it is based on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.platforms import normalized
from layerstore.build.squash import Squash, squashed_history, squashed_layers
from layerstore.build.stage import finished_history
from layerstore.errors import NotFoundError
from layerstore.image.exchange.indexes import image_for
from layerstore.image.images import image_parts, load_config
from layerstore.store.names.usage import note_image_use
from layerstore.units import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from layerstore.build.base_images import Puller
    from layerstore.build.contexts import LayoutContext
    from layerstore.build.fetch.lazy import LazyFetcher
    from layerstore.build.lower_options import Plan
    from layerstore.build.platforms import Platform
    from layerstore.build.resources import BuildResources
    from layerstore.build.solver import Result, Solver
    from layerstore.digest import DiffId
    from layerstore.formats.oci import Platform as OciPlatform
    from layerstore.formats.oci_config import History, ImageConfig
    from layerstore.image.images import ImageParts
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store


class BaseImage(NamedTuple):
    """A stored image that a build began with or copied from.

    Attributes:
        reference: As the Dockerfile has it.
    """

    reference: str
    record: ImageRecord
    config: ImageConfig


class StoredImages:
    """Base images of a store, and of OCI layouts that are taken into it.

    Args:
        store: Where they are.
        fetcher: Brings images of layouts.
        platform: Which image of several it shall be.
        puller: Brings images of registries; None for nothing.
        tell: Hears of what takes long.

    Attributes:
        used: Those that were found, in the order they were asked for.
    """

    def __init__(
        self,
        store: Store,
        fetcher: LazyFetcher,
        platform: Platform,
        *,
        puller: Puller | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._puller = puller
        self._tell = tell
        self._store = store
        self._fetcher = fetcher
        self._platform = platform
        self.used: list[BaseImage] = []

    def find(self, reference: str, platform: Platform | None = None) -> ImageConfig | None:
        """Return a stored image's config; of an index, that of the image for a platform."""
        wanted = platform or self._platform
        try:
            record = image_for(self._store, reference, lambda each: _serves(each, wanted))
            config = load_config(self._store, record.image_id)
        except NotFoundError:
            return None
        return self._use(reference, record, config)

    def pull(self, reference: str, platform: Platform) -> ImageConfig | None:
        """Return the config of an image that comes from its registry; None if nothing is pulled.

        Raises:
            RegistryError: The registry does not give it.
            NotFoundError: It has none, or none for this platform.
        """
        if self._puller is None:
            return None
        self._tell(f"pulling {reference}")
        record = self._puller(self._store, reference, platform)
        return self._use(reference, record, load_config(self._store, record.image_id))

    def _use(self, reference: str, record: ImageRecord, config: ImageConfig) -> ImageConfig:
        note_image_use(self._store.paths, record.image_id)
        self.used.append(BaseImage(reference, record, config))
        return config

    def layout(self, source: LayoutContext) -> ImageConfig:
        """Return the config of an image of an OCI layout, whose layers the store has then."""
        return self._fetcher.get().layout(
            source.path, source.tag, source.digest, lambda each: _serves(each, self._platform)
        )

    def config_of(self, reference: str) -> ImageConfig | None:
        """Return the config of an image that was found before, without a look at the store."""
        return next((base.config for base in self.used if base.reference == reference), None)

    def base_of(self, config: ImageConfig) -> BaseImage | None:
        """Return the image whose config a stage began with; None for ``scratch``."""
        return next((base for base in self.used if base.config is config), None)


def _serves(platform: OciPlatform, wanted: Platform) -> bool:
    return normalized(platform.os, platform.architecture, platform.variant).serves(wanted)


def known_config(store: Store | None, reference: str) -> ImageConfig | None:
    """Return a stored image's config, None when it is not there or there is no store."""
    if store is None:
        return None
    try:
        return load_config(store, store.resolve(reference).image_id)
    except NotFoundError:
        return None


def finished_image(
    resources: BuildResources,
    plan: Plan,
    solver: Solver,
    result: Result,
    base: BaseImage | None,
    *,
    epoch: int | None,
    squash: Squash,
    annotations: Mapping[str, str],
) -> ImageParts:
    """Return the image that a solved plan makes.

    Args:
        resources: Where squashed layers go.
        plan: What was solved.
        solver: By which.
        result: Of the target.
        base: What the target's first stage began with.
        epoch: SOURCE_DATE_EPOCH, the time of the image.
        squash: Which layers become one.
        annotations: Of the image's manifest.
    """
    history = _history(plan, solver)
    parts = _assembled(plan, result.layers, history, epoch)
    if squash is not Squash.NOTHING:
        is_over_base = squash is Squash.NEW_LAYERS and base is not None
        below = base if is_over_base else None
        kept = len(below.config.diff_ids) if below is not None else 0
        layers = squashed_layers(resources, result.layers, kept)
        merged = squashed_history(
            history,
            below.config.history if below is not None else (),
            parts.image_id,
            below.record.image_id if below is not None else None,
            has_layer=len(layers) > kept,
        )
        parts = _assembled(plan, layers, merged, epoch)
    return parts._replace(annotations=dict(annotations))


def _history(plan: Plan, solver: Solver) -> list[History]:
    steps: list[tuple[str, str | None]] = []
    for step in plan.state.steps:
        made = solver.result(step.vertex) if step.vertex is not None else None
        has_layer = made is not None and made.diff_id is not None
        steps.append(
            (step.created_by, rfc3339(made.created) if has_layer and made is not None else None)
        )
    return finished_history(plan.state.image.history, steps, plan.history_comment)


def _assembled(
    plan: Plan, layers: tuple[DiffId, ...], history: list[History], epoch: int | None
) -> ImageParts:
    created = next((step.created for step in reversed(history) if step.created), "")
    if epoch is not None or not created:
        created = rfc3339(float(epoch) if epoch is not None else 0.0)
    config = plan.state.final_config()
    return image_parts(config, layers, history, created=created)
