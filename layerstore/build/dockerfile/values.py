"""What values of flags and instructions may look like once variables are gone."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.hints import nearest
from layerstore.build.dockerfile.signals import is_signal

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import SourceSpan

_OCTAL = re.compile(r"0*[0-7]{1,4}", re.ASCII)
# One clause of a symbolic mode as chmod(1) takes it: u=rwX,go-w,+t.
_CLAUSE = re.compile(r"[ugoa]*(?:[-+=](?:[ugo]|[rwxXst]*))+")
_CHECKSUM = re.compile(r"sha(?:256:[0-9a-f]{64}|384:[0-9a-f]{96}|512:[0-9a-f]{128})")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_MAX_OCTAL_DIGITS = 12


def check_chmod(value: str | None, span: SourceSpan) -> None:
    """Refuse a mode that is neither octal nor symbolic."""
    if value is None or (len(value) <= _MAX_OCTAL_DIGITS and _OCTAL.fullmatch(value)):
        return
    if not all(_CLAUSE.fullmatch(clause) for clause in value.split(",")):
        hint = "write an octal mode (755) or a symbolic one (u=rwX,go=rX)"
        raise SpecError(f"--chmod={value} is not a mode", span, hint=hint)


def check_chown(value: str | None, span: SourceSpan) -> None:
    """Refuse an owner that is not ``user``, ``user:group`` or ``:group``."""
    if value is None:
        return
    user, _, group = value.partition(":")
    if ":" in group or not (user or group) or any(char.isspace() for char in value):
        hint = "write --chown=USER:GROUP, names or numbers"
        raise SpecError(f"--chown={value} is not an owner", span, hint=hint)


def check_checksum(value: str | None, span: SourceSpan) -> None:
    """Refuse a checksum that is neither a digest nor a git commit."""
    if value is None or _CHECKSUM.fullmatch(value) or _COMMIT.fullmatch(value):
        return
    hint = "write sha256: and 64 hexadecimal digits, or the commit of a git source"
    raise SpecError(f"--checksum={value} is not a checksum", span, hint=hint)


def check_volume(path: str, span: SourceSpan) -> None:
    """Refuse a volume that is empty or the root."""
    if not path.strip():
        raise SpecError("a VOLUME's path is empty", span)
    if posixpath.normpath("/" + path) in ("/", "//"):
        raise SpecError(f"VOLUME {path} would be the whole root", span)


def check_signal(value: str, span: SourceSpan) -> None:
    """Refuse a signal that Linux does not have."""
    if is_signal(value):
        return
    known = ("SIGTERM", "SIGQUIT", "SIGINT", "SIGKILL", "SIGHUP", "SIGUSR1", "SIGWINCH")
    near = nearest(value.upper(), [*(name.lower() for name in known)])
    hint = f"did you mean {near.upper()}?" if near else "write a name or number: SIGTERM, 15"
    raise SpecError(f"{value!r} is not a signal", span, hint=hint)
