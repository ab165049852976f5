"""Values that a build command gives: build arguments, labels and secrets."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from layerstore.cli.parsing.fields import parse_fields
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layerstore.build.request import BuildRequest

SECRET_MAX_BYTES: Final = 500 * 1024
"""What BuildKit takes at most for one secret."""

_HOW: Final = "--secret id=ID,src=FILE or --secret id=ID,env=NAME"


def with_values(
    request: BuildRequest,
    build_args: Sequence[str] | None,
    labels: Sequence[str] | None,
    secrets: Sequence[str] | None,
) -> BuildRequest:
    """Return the request with build arguments, labels and secrets as they were written.

    Raises:
        InputError: One of them is wrong.
    """
    return msgspec.structs.replace(
        request,
        build_args=_build_args(build_args or (), os.environ),
        labels=dict(_label(label) for label in labels or ()),
        secrets=dict(parse_secret(secret, os.environ) for secret in secrets or ()),
        environ=os.environ,
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


def _label(word: str) -> tuple[str, str]:
    """Return name and value of a label; as docker's, it may have no value."""
    name, _, value = word.partition("=")
    if not name:
        raise InputError(f"{word!r} is not a label", hint="NAME=VALUE")
    return name, value


def parse_secret(text: str, environ: Mapping[str, str]) -> tuple[str, bytes]:
    """Return id and value of a ``--secret``. Messages never hold the value.

    Raises:
        InputError: Not a secret, or its source is missing.
    """
    name, variable, path = secret_source(text, environ)
    if not variable:
        return name, _secret_file(name, path)
    if variable not in environ:
        raise InputError(f"secret {name!r}: the variable {variable} is not set")
    return name, os.fsencode(environ[variable])


def secret_source(text: str, environ: Mapping[str, str]) -> tuple[str, str, str]:
    """Return id, variable and file of a ``--secret``; one of the latter two is empty.

    Without a source the value is the variable or file that is called like the id, as
    buildx has it.

    Raises:
        InputError: Not a secret.
    """
    fields = parse_fields(text, "a secret", _HOW)
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
        raise InputError(f"{text!r} is not a secret", hint=_HOW)
    if variable:
        return name, variable, ""
    if not path and kind != "file" and name in environ:
        return name, name, ""
    return name, "", path or name


def _secret_file(name: str, path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            value = stream.read(SECRET_MAX_BYTES + 1)
    except OSError as err:
        raise InputError(f"secret {name!r}: cannot read {path}: {err.strerror}") from err
    if len(value) > SECRET_MAX_BYTES:
        raise InputError(f"secret {name!r}: {path} has more than {SECRET_MAX_BYTES} bytes")
    return value
