"""Mounting images of another store as lazy views: what ``mount --from`` does first."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fuse_mount.lazy_lowers import ALL, LazySource
from layerstore.errors import FormatError, InputError

if TYPE_CHECKING:
    import argparse

    from layerstore.store.remotes.remote import Remote


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what only lazy views take."""
    parser.add_argument(
        "--from",
        dest="remote",
        metavar="STORE|docker://[HOST/]",
        help="show an image of another store, or one of a registry that 'push --delta' brought "
        "there; what is read is fetched then, and kept",
    )
    parser.add_argument(
        "--prefetch",
        default="",
        metavar="all|TRACE",
        help="with --from: fetch everything, or what a recorded trace lists, before it is read",
    )
    parser.add_argument(
        "--record-trace",
        default="",
        metavar="FILE",
        help="with --from: write down what is read, in order, for --prefetch",
    )


def lazy_source(options: argparse.Namespace, root: str) -> LazySource | None:
    """Return where a view's content comes from, or None for a view of this store's image.

    Makes the local store if there is none.

    Raises:
        InputError: Options that do not go together, or a trace that is none.
        NotFoundError: The other store, or the image in it, is not there.
        LayerstoreError: It cannot be used.
    """
    if options.remote is None:
        if options.prefetch or options.record_trace:
            raise InputError(
                "--prefetch and --record-trace are for views of another store",
                hint="name it with --from",
            )
        return None
    from layerstore.image.transfer.remotes import REGISTRY_PREFIX
    from layerstore.store.remotes.remote import checked_image
    from layerstore.store.store import Store

    Store.open(root, create=True).close()
    if options.remote.startswith(REGISTRY_PREFIX):
        remote, reference, environment = _of_registry(options.remote, options.image)
    else:
        remote, reference, environment = _of_store(options.remote, root), options.image, ()
    try:
        location = remote.location
        image = checked_image(remote.image(reference), location)
    finally:
        remote.close()
    return LazySource(
        location,
        image.image_id,
        _new_trace(options.record_trace),
        _ahead(options.prefetch),
        environment,
    )


def _of_store(path: str, root: str) -> Remote:
    from layerstore.store.remotes.remote import StoreRemote

    location = os.path.realpath(path)
    if os.path.realpath(root) == location:
        raise InputError(f"{path} is this store itself", hint="leave --from away")
    return StoreRemote(location)


def _of_registry(place: str, image: str) -> tuple[Remote, str, tuple[tuple[str, str], ...]]:
    """Return an image of a registry, how it is called there, and what its server has to know."""
    from layerstore.cli.transfer.copy_images import serving
    from layerstore.cli.transfer.signatures import parts_gate
    from layerstore.image.transfer.remotes import open_remote
    from layerstore.registry.surroundings import PLACES

    location = place if place.endswith("/") else f"{place}/"
    environment = {name: os.environ[name] for name in PLACES if name in os.environ}
    # Asked here alone: whoever serves the view finds the image by its digest.
    gate = parts_gate(None)
    remote = open_remote(f"{location}{image}", environment, serving(""), gate)
    return remote, "", tuple(environment.items())


def _new_trace(path: str) -> str:
    if path and os.path.lexists(path):
        raise InputError(f"{path} exists already", hint="name a new file for the trace")
    return os.path.abspath(path) if path else ""


def _ahead(value: str) -> str:
    """Return what to fetch ahead, for a server that runs elsewhere; sees that a trace is one."""
    if value in ("", ALL):
        return value
    from layerstore.formats.trace import TRACE_MAX_BYTES, decode_trace
    from layerstore.linux.files import read_file

    try:
        decode_trace(read_file(value, max_bytes=TRACE_MAX_BYTES))
    except FileNotFoundError as err:
        raise InputError(
            f"there is no trace {value}", hint="record one: layerstore mount --record-trace FILE"
        ) from err
    except (OSError, FormatError) as err:
        raise InputError(f"{value} is no trace: {err}") from err
    return os.path.abspath(value)
