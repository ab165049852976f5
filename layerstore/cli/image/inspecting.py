"""The command inspect, of images and containers: docker's JSON, or what a template asks of it.

On the fast path: for a container the catalog is only asked whether an image has its name, too.
"""

from __future__ import annotations

import os

from layerstore.cli.failure import tell_all
from layerstore.cli.output import write_json
from layerstore.errors import LayerstoreError, NotFoundError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from layerstore.store.store import Store

KINDS = ("image", "container")

# What docker's templates may ask of every image, whose config has none of it that is empty.
_EMPTY_CONFIG = {
    "Cmd": None, "Entrypoint": None, "Env": None, "ExposedPorts": None, "Healthcheck": None,
    "Labels": None, "OnBuild": None, "Shell": None, "StopSignal": "", "User": "", "Volumes": None,
    "WorkingDir": "",
}  # fmt: skip


def inspect_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``inspect`` takes."""
    add = parser.add_argument
    add("names", nargs="+", metavar="IMAGE|CONTAINER", help="names or ids")
    add("-f", "--format", default="json", metavar="json|TEMPLATE",
        help="json, or a template: '{{.Id}}', '{{json .Config}}'")  # fmt: skip
    add("--type", choices=KINDS, help="look for images alone, or containers alone")
    add("-s", "--size", action="store_true", help="of containers: SizeRw, SizeRootFs")
    add("--json", dest="format", action="store_const", const="json", help="as --format json")


def inspect(options: argparse.Namespace, root: str) -> int:
    """Print what is known of images and containers, in the order in which they are named."""
    found: list[dict[str, object]] = []
    failures: list[LayerstoreError] = []
    for name, kind in _kinds(options, root):
        try:
            found.append(_inspect_one(name, kind, root, sizes=options.size))
        except LayerstoreError as err:
            failures.append(err)
    if options.format in ("json", "table"):
        write_json(found)
    else:
        from layerstore.cli.parsing.templates import print_rows

        print_rows(options.format, [_with_empty(one) for one in found], {})
    tell_all(failures)
    return 0


def _kinds(options: argparse.Namespace, root: str) -> list[tuple[str, str]]:
    """Return each name with what it is of: image, container, or "" if nothing says so."""
    from layerstore.cli.container.either import containers_among

    if options.type:
        kinds = [(name, str(options.type)) for name in options.names]
    else:
        ours = containers_among(options.names, root, "inspect")
        kinds = [(name, "container" if name in ours else "") for name in options.names]
    if any(kind == "container" for _, kind in kinds):
        from layerstore.cli.rootless.containers_namespace import join

        join(root)
    return kinds


def _inspect_one(name: str, kind: str, root: str, *, sizes: bool) -> dict[str, object]:
    if kind == "container":
        from layerstore.cli.container.commands import reference_of
        from layerstore.cli.container.inspected import inspect_container
        from layerstore.containers.records import find

        container = find(root, reference_of(name))
        told = inspect_container(root, container)
        if sizes:
            from layerstore.cli.container.sizes import sizes_of

            size = sizes_of(root, [container])[container.container_id]
            told |= {"SizeRw": size.written, "SizeRootFs": size.seen}
        return told
    from pathlib import Path

    from layerstore.store.store import Store

    with Store.open(Path(root), create=False) as store:
        try:
            return _inspect_image(store, name)
        except NotFoundError as err:
            if kind or not os.path.isdir(f"{root}/containers"):
                raise
            raise NotFoundError(
                f"no image and no container {name!r}",
                hint=f"{err.hint}, and 'layerstore ps -a' lists containers",
            ) from err


def _with_empty(found: dict[str, object]) -> dict[str, object]:
    """Return what is known of an image with what it leaves out; of a container as it is."""
    config = found["Config"]
    if "RepoTags" not in found or not isinstance(config, dict):
        return found
    return {"Variant": "", **found, "Config": {**_EMPTY_CONFIG, **config}}


def _inspect_image(store: Store, reference: str) -> dict[str, object]:
    from layerstore.image.exchange.indexes import find_index
    from layerstore.image.images import inspect as inspect_record

    found = inspect_record(store, store.resolve(reference))
    index = find_index(store, reference)
    if index is not None:
        found["Index"] = {
            "Digest": index.document.digest,
            "MediaType": index.document.media_type,
            "Manifests": [
                {
                    "Digest": entry.digest,
                    "Platform": str(entry.platform) if entry.platform else "",
                    "Id": index.images[entry.digest].image_id,
                }
                for entry in index.entries
            ],
        }
    return found
