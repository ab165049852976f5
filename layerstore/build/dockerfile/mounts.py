"""``RUN --mount``: fields, defaults and which type takes which.

Source: Dockerfile reference, "RUN --mount". Fields may come in any order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import msgspec

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.hints import nearest
from layerstore.build.dockerfile.syntax import MountType, RunMount, Sharing
from layerstore.errors import FormatError, InputError
from layerstore.formats.csv_record import fields_of
from layerstore.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.build.dockerfile.syntax import SourceSpan

_ALIASES = {
    "src": "source",
    "dst": "target",
    "destination": "target",
    "ro": "readonly",
    "rw": "readwrite",
}
_FIELDS = (
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "readwrite",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
)
_SWITCHES = ("readonly", "readwrite", "required")
# Fields that only some types take; the others mean something, or nothing, for every type.
_ONLY_FOR: dict[str, tuple[MountType, ...]] = {
    "sharing": ("cache",),
    "required": ("secret", "ssh"),
    "size": ("tmpfs",),
    "mode": ("secret", "ssh", "cache"),
    "uid": ("secret", "ssh", "cache"),
    "gid": ("secret", "ssh", "cache"),
    "env": ("secret",),
}
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_MAX_ID = 2**32 - 1


def parse_mount(raw: str, span: SourceSpan, expand: Callable[[str], str]) -> RunMount:
    """Return the mount that a ``--mount`` value describes.

    Args:
        raw: The value, quotes of the flag removed.
        span: Where the flag stands.
        expand: Called for every value except that of ``from``, which takes no variables.

    Raises:
        SpecError: Unknown field, bad value, or a field the type does not take.
    """
    values = {name: _expanded(name, value, expand) for name, value in _fields(raw, span).items()}
    fields: dict[str, Any] = {}
    for name, value in values.items():
        _convert(fields, name, value, span)
    kind: MountType = fields.get("type", "bind")
    for name, kinds in _ONLY_FOR.items():
        if name in values and kind not in kinds:
            hint = f"{name} is for mounts of type " + " and ".join(kinds)
            raise SpecError(f"a {kind} mount takes no {name}", span, hint=hint)
    fields.setdefault("readonly", kind not in ("cache", "tmpfs"))
    mount = RunMount(raw=raw, span=span, **fields)
    if kind == "ssh" and mount.source is not None:
        raise SpecError("an ssh mount takes no source", span, hint="write id=NAME")
    return _secret(mount) if kind == "secret" else mount


def unresolved_mount(raw: str, span: SourceSpan, check: Callable[[str], str]) -> RunMount:
    """Return a mount to be resolved later, after checking what does not need variables.

    Raises:
        SpecError: Unknown field, a variable in ``from``, or what ``check`` refuses.
    """
    for name, value in _fields(raw, span).items():
        if value is not None and name != "from":
            check(value)
    return RunMount(raw=raw, span=span, resolved=False)


def _fields(raw: str, span: SourceSpan) -> dict[str, str | None]:
    """Return the fields by their full name; a later one of the same name wins."""
    fields: dict[str, str | None] = {}
    for field in _split_csv(raw, span):
        written, equals, value = field.partition("=")
        key = _ALIASES.get(written.lower(), written.lower())
        if key not in _FIELDS:
            near = nearest(key, (*_FIELDS, *_ALIASES))
            hint = f"did you mean {near}?" if near else "the fields are " + ", ".join(_FIELDS)
            raise SpecError(f"a mount has no field {written!r}", span, hint=hint)
        if not equals and key not in _SWITCHES:
            raise SpecError(f"the mount field {key} needs a value", span, hint=f"{key}=VALUE")
        if key == "from" and "$" in value[:-1]:
            hint = "name a stage with FROM, where variables may stand, and mount from that"
            raise SpecError("from of a mount takes no variables", span, hint=hint)
        fields[key] = value if equals else None
    return fields


def _split_csv(raw: str, span: SourceSpan) -> list[str]:
    """Split at commas, as a line of CSV."""
    if not raw:
        raise SpecError("--mount describes nothing", span, hint="--mount=type=cache,target=/path")
    try:
        return fields_of(raw, "mount field")
    except FormatError as err:
        raise SpecError(err.message, span) from err


def _expanded(name: str, value: str | None, expand: Callable[[str], str]) -> str | None:
    return value if value is None or name == "from" else expand(value)


def _convert(fields: dict[str, Any], name: str, value: str | None, span: SourceSpan) -> None:
    if name in _SWITCHES:
        state = _switch(name, value, span)
        if name == "readwrite":
            fields["readonly"] = not state
        else:
            fields[name] = state
    elif name == "type":
        fields["type"] = _choice(name, value or "", get_args(MountType), span)
    elif name == "sharing":
        fields["sharing"] = _choice(name, value or "", get_args(Sharing), span)
    elif name in ("mode", "uid", "gid"):
        fields[name] = _number(name, value or "", 8 if name == "mode" else 10, span)
    elif name == "size":
        fields["size"] = _size(value or "", span)
    else:
        fields["from_" if name == "from" else name] = value or None


def _switch(name: str, value: str | None, span: SourceSpan) -> bool:
    if value is None or value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise SpecError(f"the mount field {name} cannot be {value!r}", span, hint="true or false")


def _choice(name: str, value: str, known: tuple[str, ...], span: SourceSpan) -> str:
    if value.lower() in known:
        return value.lower()
    near = nearest(value, known)
    hint = f"did you mean {near}?" if near else f"{name} is one of " + ", ".join(known)
    raise SpecError(f"the mount field {name} cannot be {value!r}", span, hint=hint)


def _number(name: str, value: str, base: int, span: SourceSpan) -> int:
    digits = "01234567" if base == 8 else "0123456789"
    number = -1
    if value and len(value) <= 16 and not value.strip(digits):
        number = int(value, base)
    if not 0 <= number <= _MAX_ID:
        kind = "an octal mode" if base == 8 else "a number"
        raise SpecError(f"the mount field {name} is {value!r}, not {kind}", span)
    return number


def _size(value: str, span: SourceSpan) -> int:
    try:
        return parse_size(value)
    except InputError as err:
        raise SpecError(f"size of a mount: {err.message}", span, hint=err.hint) from err


def _secret(mount: RunMount) -> RunMount:
    """Return the secret mount with its name in ``id``, where ``source`` may have had it."""
    if mount.from_ is not None:
        raise SpecError("a secret mount takes no from", mount.span)
    if mount.source is not None and mount.id is not None:
        raise SpecError("a secret mount has source and id, which mean the same", mount.span)
    if mount.source is None and mount.target is None and mount.id is None:
        hint = "--mount=type=secret,id=NAME"
        raise SpecError("a secret mount needs an id or a target", mount.span, hint=hint)
    return msgspec.structs.replace(mount, id=mount.id or mount.source, source=None)
