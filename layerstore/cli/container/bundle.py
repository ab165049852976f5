"""The command ``bundle``: a container's bundle for other runtimes."""

from __future__ import annotations

import os
from pathlib import Path

from layerstore.cli.container.flags import add_run_options, refuse_unsupported
from layerstore.cli.container.mounts import inherited_mounts
from layerstore.cli.container.options import settings_of
from layerstore.errors import InputError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def bundle_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``bundle`` takes."""
    add_run_options(parser, runs=False)
    parser.add_argument("image", metavar="IMAGE", help="name or id; then DIR [COMMAND [ARG...]]")


def bundle(options: argparse.Namespace, root: str) -> int:
    """Write a bundle of an image."""
    from layerstore.containers.bundle import write_bundle
    from layerstore.containers.image_config import image_defaults
    from layerstore.store.store import Store

    refuse_unsupported(options, "bundle")
    if not options.command:
        raise InputError("no directory", hint="layerstore bundle IMAGE DIR [COMMAND [ARG...]]")
    directory, *command = options.command
    with Store.open(Path(root)) as store:
        image = store.resolve(options.image)
        config = image_defaults(store.get_blob(image.image_id))
        inherited = inherited_mounts(root, options.volumes_from)
        settings = settings_of(options, config, command, inherited)
        write_bundle(store, image.image_id, image.layers, settings, os.path.abspath(directory))
    return 0
