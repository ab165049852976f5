"""Builds that are asked for with the commonest options alone: without typer.

To import typer, and to have it inspect the build command, takes a third of the time before the
first step. :mod:`layerstore.cli.build.again` reads such command lines anyway.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import msgspec

from layerstore.build.api import build_all
from layerstore.build.known import Overhearing
from layerstore.cli.build import again, told
from layerstore.cli.build.bases import registry_puller
from layerstore.cli.build.request import new_request
from layerstore.cli.build.ui import watching
from layerstore.cli.build.values import with_values
from layerstore.cli.collector import collect_rarely
from layerstore.cli.rootless.own_namespace import become_root
from layerstore.cli.settings import Settings, chosen_runtime
from layerstore.cli.warm import fresh_images
from layerstore.linux.namespaces import mapped_ids
from layerstore.runtime.settings import RunOptions

if TYPE_CHECKING:
    from layerstore.build.request import BuildRequest, BuiltVariant
    from layerstore.build.ui import BuildUi
    from layerstore.store.store import Store


def build(asked: again.Asked, progress: str, store_option: str | None, *, quiet: bool) -> int:
    """Build, and tell; the exit code.

    Args:
        asked: What the command line says; of other options it has none.
        progress: How steps are shown.
        store_option: Value of ``--store``.
        quiet: Print ids only.

    Raises:
        LayerstoreError: As the build command.
    """
    collect_rarely()
    settings = Settings(store_option)
    become_root(settings)
    request = new_request(
        asked.directory, asked.file or None, asked.tags, asked.target or None,
        no_cache=False, network=asked.network,
    )  # fmt: skip
    plain = with_values(request, asked.build_args, asked.labels, asked.secrets)
    runtime = RunOptions(runtime=chosen_runtime(os.environ))
    request = msgspec.structs.replace(plain, run=runtime, puller=registry_puller())
    with settings.open_store(create=True) as store, watching(progress, quiet=quiet) as ui:
        built = build_and_remember(store, request, plain, asked, ui)
    told.tell(built, progress=progress, quiet=quiet, as_json=False, id_too=True)
    fresh_images.tell(settings.root, told.stored(built))
    return 0


def build_and_remember(
    store: Store,
    request: BuildRequest,
    plain: BuildRequest,
    asked: again.Asked,
    ui: BuildUi,
) -> list[BuiltVariant]:
    """Build, and remember the answer if the request is one that these words alone make.

    Args:
        store: To build in.
        request: What is asked for.
        plain: What the words that can be remembered ask for.
        asked: Those words.
        ui: Hears of the build.
    """
    heard, began = Overhearing(ui), (time.time_ns(), store.catalog.epoch())
    built = build_all(store, request, heard)
    # With one id alone commands fare otherwise than they might the next time.
    if request == plain and request.dockerfile_text is None and mapped_ids() != 1:
        again.remember(store, asked, built[0].result, heard, began)
    return built
