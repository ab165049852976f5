"""What a build is asked for, from the options that every command over a spec has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from layerstore.cli.clock import source_date_epoch
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.request import BuildRequest

NETWORKS = ("default", "host", "none")


def new_request(
    directory: str,
    file: str | None,
    tags: Sequence[str] | None,
    target: str | None,
    *,
    no_cache: bool,
    network: str,
) -> BuildRequest:
    """Return what the options that every command over a spec has ask for.

    Raises:
        InputError: One of them is wrong.
    """
    from layerstore.build.request import BuildRequest
    from layerstore.cli.build.context import parse_context, parse_spec

    context = parse_context(directory, file)
    if network not in NETWORKS:
        raise InputError(f"{network!r} is not a network", hint="one of " + ", ".join(NETWORKS))
    spec = parse_spec(file)
    return BuildRequest(
        context=context,
        dockerfile=spec.path,
        dockerfile_text=spec.text,
        dockerfile_url=spec.url,
        tags=tuple(tags or ()),
        target=target,
        no_cache=no_cache,
        network=network != "none",
        source_date_epoch=source_date_epoch(),
    )


def with_results(
    request: BuildRequest,
    outputs: Sequence[str] | None,
    annotations: Sequence[str] | None,
    *,
    push: bool,
    squash: bool,
    squash_all: bool,
) -> BuildRequest:
    """Return a request with ``--output``, ``--push``, ``--annotation`` and ``--squash``.

    Raises:
        InputError: One of them is wrong.
    """
    from layerstore.build.squash import Squash
    from layerstore.cli.build.output_options import parse_annotations, parse_outputs

    chosen = Squash.ALL_LAYERS if squash_all else Squash.NEW_LAYERS if squash else Squash.NOTHING
    has_epoch = bool(request.build_args.get("SOURCE_DATE_EPOCH", request.source_date_epoch))
    return msgspec.structs.replace(
        request,
        outputs=tuple(parse_outputs(outputs or (), epoch=has_epoch, push=push)),
        annotations=parse_annotations(annotations or ()),
        squash=chosen,
    )
