"""The build command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.clock import source_date_epoch
from layerstore.cli.common import Json, Quiet, settings_of
from layerstore.cli.output import write_json, write_line, write_note
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layerstore.build.api import BuildRequest, BuildResult

STDIO = "-"
PROGRESS = "auto|plain|tty|quiet|json"
NETWORKS = ("default", "host", "none")
SECRET_MAX_BYTES = 500 * 1024
"""What BuildKit takes at most for one secret."""

_Many = list[str] | None


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("build")(build_image)


def build_image(
    context: typer.Context,
    directory: Annotated[
        Path, typer.Argument(metavar="CONTEXT", help="Directory that COPY and ADD take from.")
    ],
    *,
    tags: Annotated[
        _Many, typer.Option("--tag", "-t", metavar="NAME", help="Name of the image; repeatable.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file", "-f", metavar="FILE", help="The Dockerfile; CONTEXT/Dockerfile, - for stdin."
        ),
    ] = None,
    build_args: Annotated[
        _Many,
        typer.Option(
            "--build-arg",
            metavar="NAME[=VALUE]",
            help="Value of an ARG; without a value the environment's. Repeatable.",
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Stage to build; the last by default.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run every step.")] = False,
    secrets: Annotated[
        _Many,
        typer.Option(
            "--secret",
            metavar="id=ID[,src=FILE|,env=NAME]",
            help="For RUN --mount=type=secret; ends in no layer. Repeatable.",
        ),
    ] = None,
    labels: Annotated[
        _Many, typer.Option("--label", metavar="NAME=VALUE", help="Label; repeatable.")
    ] = None,
    network: Annotated[
        str, typer.Option(metavar="|".join(NETWORKS), help="Of RUN: the host's, or none.")
    ] = "default",
    progress: Annotated[str, typer.Option(metavar=PROGRESS, help="How steps are shown.")] = "auto",
    iidfile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write the image's id.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Build an image from a Dockerfile."""
    from layerstore.build.api import build
    from layerstore.cli.build_ui import check_progress, watching

    request = _request(directory, file, tags, target, no_cache=no_cache, network=network)
    request = _with_values(request, build_args, labels, secrets)
    check_progress(progress)
    settings = settings_of(context)
    with settings.open_store(create=True) as store, watching(progress, quiet=quiet) as ui:
        result = build(store, request, ui)
    if iidfile is not None:
        iidfile.write_text(result.image_id, encoding="ascii")
    _tell(result, progress=progress, quiet=quiet, as_json=as_json)


def _request(
    directory: Path,
    file: str | None,
    tags: Sequence[str] | None,
    target: str | None,
    *,
    no_cache: bool,
    network: str,
) -> BuildRequest:
    from layerstore.build.api import DOCKERFILE_MAX_BYTES, BuildRequest

    if str(directory) == STDIO:
        raise InputError(
            "a context on stdin is not supported", hint="unpack it and name the directory"
        )
    if not directory.is_dir():
        raise InputError(f"the build context {directory} is not a directory")
    if network not in NETWORKS:
        raise InputError(f"{network!r} is not a network", hint="one of " + ", ".join(NETWORKS))
    from_stdin = file == STDIO
    return BuildRequest(
        context=directory,
        dockerfile=Path("stdin") if from_stdin else Path(file) if file else None,
        dockerfile_text=sys.stdin.buffer.read(DOCKERFILE_MAX_BYTES + 1) if from_stdin else None,
        tags=tuple(tags or ()),
        target=target,
        no_cache=no_cache,
        network=network != "none",
        source_date_epoch=source_date_epoch(),
    )


def _with_values(
    request: BuildRequest,
    build_args: Sequence[str] | None,
    labels: Sequence[str] | None,
    secrets: Sequence[str] | None,
) -> BuildRequest:
    from dataclasses import replace

    return replace(
        request,
        build_args=_build_args(build_args or (), os.environ),
        labels=dict(_pair(label, "a label") for label in labels or ()),
        secrets=dict(parse_secret(secret, os.environ) for secret in secrets or ()),
    )


def _build_args(words: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name:
            raise InputError(f"{word!r} is not a build argument", hint="--build-arg NAME=VALUE")
        if equals:
            values[name] = value
        elif name in environ:  # docker: a name that is not set stays unset
            values[name] = environ[name]
    return values


def _pair(word: str, what: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not name or not equals:
        raise InputError(f"{word!r} is not {what}", hint="NAME=VALUE")
    return name, value


def parse_secret(text: str, environ: Mapping[str, str]) -> tuple[str, bytes]:
    """Return id and value of a ``--secret``.

    Without a source the value is the variable or file that is called like the id, as
    buildx has it. Messages never hold the value.

    Raises:
        InputError: Not a secret, or its source is missing.
    """
    fields = dict(_pair(part, "a part of a secret") for part in text.split(","))
    name = fields.pop("id", "")
    kind = fields.pop("type", "")
    path = fields.pop("src", fields.pop("source", ""))
    variable = fields.pop("env", path if kind == "env" else "")
    if (
        not name
        or fields
        or kind not in ("", "file", "env")
        or (path and variable and path != variable)
    ):
        raise InputError(
            f"{text!r} is not a secret", hint="--secret id=ID,src=FILE or --secret id=ID,env=NAME"
        )
    if not path and not variable:
        path, variable = ("", name) if kind != "file" and name in environ else (name, "")
    if variable:
        if variable not in environ:
            raise InputError(f"secret {name!r}: the variable {variable} is not set")
        return name, os.fsencode(environ[variable])
    return name, _secret_file(name, path)


def _secret_file(name: str, path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            value = stream.read(SECRET_MAX_BYTES + 1)
    except OSError as err:
        raise InputError(f"secret {name!r}: cannot read {path}: {err.strerror}") from err
    if len(value) > SECRET_MAX_BYTES:
        raise InputError(f"secret {name!r}: {path} has more than {SECRET_MAX_BYTES} bytes")
    return value


def _tell(result: BuildResult, *, progress: str, quiet: bool, as_json: bool) -> None:
    members: dict[str, object] = {
        "id": result.image_id,
        "names": list(result.names),
        "size": result.image.size,
        "steps": result.steps,
        "cached": result.cached,
        "new_bytes": result.new_bytes,
        "reused_bytes": result.reused_bytes,
    }
    from layerstore.cli.build_ui import JSON_PROGRESS, sizes

    if progress in JSON_PROGRESS:
        from layerstore.cli.build_json import JsonUi

        JsonUi(sys.stderr).done(**members)
    if as_json:
        write_json(members)
        return
    write_line(result.image_id)
    if not quiet and progress not in (*JSON_PROGRESS, "quiet"):
        from layerstore.units import format_size

        what = ", ".join(result.names) or "an image without a name (the next gc removes it)"
        write_note(
            f"{what}: {format_size(result.image.size)} of files, "
            f"{result.cached} of {result.steps} steps from the cache"
            f"{sizes(result.new_bytes, result.reused_bytes)}"
        )
