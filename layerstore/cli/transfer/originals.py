"""The command originals, and the option of pull and load that says what is remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import DryRun, Json, settings_of
from layerstore.cli.output import short_id, write_json, write_line, write_note, write_table
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.image.exchange.original_ledger import Held
    from layerstore.image.exchange.originals import Originals

ORIGINALS_VARIABLE = "LAYERSTORE_ORIGINALS"

OriginalsOption = Annotated[
    str,
    typer.Option(
        "--originals",
        metavar="auto|keep|drop",
        envvar=ORIGINALS_VARIABLE,
        help="Of compressed layers: find how they are made again and keep those for which nothing "
        "is found; keep all; or remember no manifests.",
    ),
]


def originals_of(text: str) -> Originals:
    """Return what is done with compressed layers.

    Raises:
        InputError: None of the words.
    """
    from layerstore.image.exchange.originals import Originals

    try:
        return Originals(text)
    except ValueError as err:
        raise InputError(
            f"{text!r} does not say what to keep", hint="one of auto, keep, drop"
        ) from err


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("originals")(originals)


def originals(
    context: typer.Context,
    verb: Annotated[str, typer.Argument(metavar="ls|drop", help="What to do.")] = "ls",
    images: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGE...]", help="Names or ids; ls: else all.")
    ] = None,
    *,
    kept_only: Annotated[
        bool,
        typer.Option("--kept-only", help="drop: only manifests of which something is kept."),
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """List how images came and what is kept of it, or give that up.

    An image whose originals are dropped stays as it is. It can no longer leave under the
    digests that 'drop' names: it is compressed anew, and gets another one.
    """
    if verb not in ("ls", "drop"):
        raise InputError(f"{verb!r} is no verb of originals", hint="ls or drop")
    if verb == "drop" and not images:
        raise InputError("name the images whose originals are to go", hint="originals ls")
    if verb == "ls":
        _list(context, images or [], as_json=as_json)
    else:
        _drop(context, images or [], kept_only=kept_only, dry_run=dry_run, as_json=as_json)


def _list(context: typer.Context, images: Sequence[str], *, as_json: bool) -> None:
    from layerstore.image.exchange.original_ledger import held_by
    from layerstore.units import format_size

    with settings_of(context).open_store() as store:
        chosen = [store.resolve(image) for image in images] or store.images()
        held = [each for image in chosen for each in held_by(store, image)]
    if as_json:
        write_json([_to_json(each) for each in held])
        return
    write_table(
        ["IMAGE", "ID", "DIGEST", "KIND", "LAYERS", "KEPT"],
        [
            [
                each.names[0] if each.names else "<none>",
                short_id(each.image_id),
                each.digest,
                each.kind,
                each.state,
                format_size(each.kept_bytes) if each.kept_bytes else "",
            ]
            for each in held
        ],
    )


def _drop(
    context: typer.Context,
    images: Sequence[str],
    *,
    kept_only: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    from layerstore.image.exchange.original_ledger import drop_originals
    from layerstore.units import format_size

    rows: list[Held] = []
    with settings_of(context).open_store() as store:
        for image in images:
            record = store.resolve(image)
            rows += drop_originals(store, record, kept_only=kept_only, dry_run=dry_run)
    if as_json:
        write_json([_to_json(each) for each in rows])
        return
    for each in rows:
        name = each.names[0] if each.names else short_id(each.image_id)
        write_line(f"{name}: can no longer leave as {each.digest}")
    kept = {blob: size for each in rows for blob, size in each.kept.items()}
    would = "would go" if dry_run else "go with the next gc, unless another image needs them"
    write_note(f"{format_size(sum(kept.values()))} of compressed originals {would}")


def _to_json(held: Held) -> dict[str, object]:
    return {
        "id": held.image_id,
        "names": list(held.names),
        "digest": held.digest,
        "media_type": held.media_type,
        "layers": held.state,
        "kept": dict(held.kept),
        "kept_bytes": held.kept_bytes,
    }
