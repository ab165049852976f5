"""From a tar member's name to a path inside an image.

Names are bytes. What every extractor reads alike is normalised (``./a``, ``/a``, ``a//b``),
what could mean two things or lead out of the image is refused.
"""

from __future__ import annotations

from layerstore.errors import FormatError, UnsafeContentError
from layerstore.formats.tar_limits import exceeded
from layerstore.formats.tree import (
    DEPTH_MAX,
    NAME_MAX_BYTES,
    PATH_MAX_BYTES,
    TARGET_MAX_BYTES,
    WHITEOUT_PREFIX,
)


def member_path(name: bytes, *, is_directory: bool) -> bytes:
    """Return the path inside the image that a member's name means; the root is ``b""``.

    Raises:
        FormatError: Empty, with a NUL, a component too long, or the name of a directory
            on something else.
        UnsafeContentError: ``..`` in the name.
        LimitExceededError: Too long or too deep.
    """
    path = name[2:] if name[:2] == b"./" else name
    if is_directory and path[-1:] == b"/":
        path = path[:-1]
    if (
        # First: what is long is looked at by its parts, which takes a third of searching it.
        len(path) > NAME_MAX_BYTES
        or b"/." in path
        or b"//" in path
        or b"\0" in path
        or path[:1] in (b"/", b".", b"")
        or path[-1:] == b"/"
    ):
        return _normalise(name, is_directory=is_directory)
    return path


def _normalise(name: bytes, *, is_directory: bool) -> bytes:
    if not name:
        raise FormatError("member without a name")
    if b"\0" in name:
        raise FormatError("name with a NUL")
    parts = name.split(b"/")
    if not is_directory and parts[-1] in (b"", b"."):
        raise FormatError("name of a directory on something that is none")
    if b".." in parts:
        raise UnsafeContentError("name with '..'")
    if b"" in parts or b"." in parts:
        parts = [part for part in parts if part and part != b"."]
        name = b"/".join(parts)
    if not parts and not is_directory:
        raise UnsafeContentError("the root as something else than a directory")
    _check_lengths(parts)
    return name


def _check_lengths(kept: list[bytes]) -> None:
    if kept and kept[-1].startswith(WHITEOUT_PREFIX):
        # A marker is never a file: what it stands in or for may be as long as any path.
        if len(kept[-1]) > NAME_MAX_BYTES + len(WHITEOUT_PREFIX):
            raise FormatError("whiteout of a name longer than any name")
        kept = kept[:-1]
    length = sum(map(len, kept)) + max(len(kept) - 1, 0)
    if length > PATH_MAX_BYTES:
        raise exceeded("path", length, PATH_MAX_BYTES, "bytes in a path")
    if len(kept) > DEPTH_MAX:
        raise exceeded("depth", len(kept), DEPTH_MAX, "directories in a path")
    if length > NAME_MAX_BYTES and max(map(len, kept)) > NAME_MAX_BYTES:
        raise FormatError(f"name with a component longer than {NAME_MAX_BYTES} bytes")


def link_path(name: bytes) -> bytes:
    """Return the path inside the image that a hard link's target means.

    Raises:
        FormatError: Empty or malformed.
        UnsafeContentError: Absolute, or with ``..``.
    """
    if name[:1] == b"/":
        raise UnsafeContentError(f"hard link to the absolute path {name[:300]!r}")
    try:
        return member_path(name, is_directory=False)
    except (FormatError, UnsafeContentError) as err:
        raise type(err)(f"hard link target {name[:300]!r}: {err.message}") from err


def check_symlink_target(target: bytes) -> bytes:
    """Return a symlink's text, which may say anything Linux accepts.

    Raises:
        FormatError: Empty, with a NUL, or too long for any Linux file system.
    """
    if not target or b"\0" in target or len(target) > TARGET_MAX_BYTES:
        raise FormatError(f"symlink target of {len(target)} bytes is empty, too long or has a NUL")
    return target
