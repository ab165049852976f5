"""Whether overlays of this kernel follow redirects into data-only layers, and how.

Found out by trying, on file systems in memory that are mounted nowhere.
"""

from __future__ import annotations

import errno
import os

from layerstore.errors import LayerstoreError
from layerstore.linux import mounts

FOLLOWING = ("metacopy=on", "redirect_dir=follow", "index=off")
"""Lets every overlay with data-only layers read them (Linux 6.5), and upper directories refer
to what lies below: right for overlays that nobody writes."""

_CONTENT = b"data"


def follows_without_metacopy(options: tuple[str, ...]) -> bool:
    """Whether an overlay with ``options``, metacopy off among them, reads data-only layers.

    Linux does so from 6.16 on. Then an upper directory needs no metacopy either, and stays
    complete in itself.
    """
    return follow_problem(options) is None


def follow_problem(options: tuple[str, ...]) -> str | None:
    """Return why an overlay with ``options`` does not read data-only layers, or None."""
    try:
        memory = mounts.create_tmpfs()
    except LayerstoreError as err:
        return err.message
    try:
        return _try(f"/proc/self/fd/{memory}", options)
    except LayerstoreError as err:
        return err.message
    except OSError as err:
        if err.errno == errno.EIO:
            return "overlayfs does not follow the redirect"
        return str(err)
    finally:
        os.close(memory)


def _try(place: str, options: tuple[str, ...]) -> str | None:
    for name in ("lower", "data"):
        os.mkdir(f"{place}/{name}")
    with open(f"{place}/data/content", "wb") as file:
        file.write(_CONTENT)
    with open(f"{place}/lower/file", "wb") as file:
        file.truncate(len(_CONTENT))
    prefix = "user" if "userxattr" in options else "trusted"
    os.setxattr(f"{place}/lower/file", f"{prefix}.overlay.metacopy", b"")
    os.setxattr(f"{place}/lower/file", f"{prefix}.overlay.redirect", b"/content")
    overlay = mounts.Overlay((f"{place}/lower",), options=options, data=(f"{place}/data",))
    root = mounts.create_overlay(overlay)
    try:
        with open(f"/proc/self/fd/{root}/file", "rb") as file:
            return None if file.read() == _CONTENT else "overlayfs reads a hole instead"
    finally:
        os.close(root)
