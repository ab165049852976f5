"""Standard streams that whoever started us has closed.

The next file to be opened would get the free number: a pack could become descriptor 2,
and whatever a tool that we start writes to its stderr would end in it.
"""

from __future__ import annotations

import os
import sys

# The wrong way round for the first two: reading nothing must not look like an empty file, nor
# lost output like success.
_WAYS = (("stdin", os.O_WRONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w"))


def occupy_closed() -> None:
    """Put ``/dev/null`` where a standard stream is missing; using stdin or stdout fails then."""
    for number, (name, flags, mode) in enumerate(_WAYS):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
