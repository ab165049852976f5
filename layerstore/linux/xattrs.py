"""Extended attributes as sorted pairs of bytes, on paths or descriptors, links not followed."""

from __future__ import annotations

import errno
import os

Pairs = tuple[tuple[bytes, bytes], ...]

_NONE_HERE = frozenset({errno.ENOTSUP, errno.ENODATA, errno.ENOSYS})


def read_xattrs(path: bytes | str | int) -> Pairs:
    """Return all attributes that the caller may see, sorted by name.

    A file system without attributes has none; an attribute that vanishes between
    listing and reading is left out.

    Raises:
        OSError: The path cannot be read.
    """
    follow = isinstance(path, int)
    try:
        names = os.listxattr(path, follow_symlinks=follow)
    except OSError as err:
        if err.errno in _NONE_HERE:
            return ()
        raise
    pairs = []
    for name in names:
        try:
            pairs.append((os.fsencode(name), os.getxattr(path, name, follow_symlinks=follow)))
        except OSError as err:
            if err.errno not in _NONE_HERE:
                raise
    return tuple(sorted(pairs))
