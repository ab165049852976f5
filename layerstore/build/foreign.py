"""Whether this host runs programs of another platform, found by running one.

A RUN over an image for another architecture needs the kernel's help: an emulator that
binfmt_misc starts, or an architecture that this one contains (386 on amd64). Whether that
works is not asked of any table; a program of a few bytes that ends at once is started. It
is our own: nothing of the image is run here.

Source: chroot(1), unshare(1); ELF-64 and ELF-32 object file formats; Linux,
Documentation/admin-guide/binfmt-misc.rst.
"""

from __future__ import annotations

import functools
import os
import struct
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import BuildError
from layerstore.image.images import host_platform

if TYPE_CHECKING:
    from layerstore.build.platforms import Platform

_TRIAL_TIMEOUT_S = 10


class _Machine(NamedTuple):
    """How an architecture's programs look.

    Attributes:
        number: ``e_machine``.
        is_64: Whether they are ELF-64.
        code: Machine code of exit(0).
    """

    number: int
    is_64: bool
    code: str
    is_big_endian: bool = False
    flags: int = 0


_MACHINES = {
    "386": _Machine(3, False, "b801000000 31db cd80"),
    "amd64": _Machine(62, True, "b83c000000 31ff 0f05"),
    "arm": _Machine(40, False, "0170a0e3 0000a0e3 000000ef", flags=0x5000000),
    "arm64": _Machine(183, True, "a80b80d2 000080d2 010000d4"),
    "ppc64le": _Machine(21, True, "01000038 00006038 02000044", flags=2),
    "riscv64": _Machine(243, True, "9308d005 13050000 73000000"),
    "s390x": _Machine(22, True, "a7290000 0a01", is_big_endian=True),
}


def require_runnable(platform: Platform) -> None:
    """Return if programs of ``platform`` run here.

    Raises:
        BuildError: They do not; says what is missing.
    """
    if platform.os == "linux" and (
        platform.architecture == host_platform()[0] or _runs(platform.architecture)
    ):
        return
    raise BuildError(
        f"this host cannot run programs of {platform}, which RUN needs",
        hint="install qemu-user-static with binfmt-support, or build without RUN",
    )


@functools.cache
def _runs(architecture: str) -> bool:
    machine = _MACHINES.get(architecture)
    if machine is None:
        return False
    import tempfile  # lazily: every build imports this module

    with tempfile.TemporaryDirectory(prefix="layerstore-") as directory:
        path = f"{directory}/trial"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o700)
        with os.fdopen(fd, "wb") as file:
            file.write(trial_program(architecture))
        # With the directory as its root, as in a container: an emulator that the kernel opens
        # only when a program starts (binfmt_misc without the flag F) is not found there.
        as_root = ["chroot", directory]
        as_user = ["unshare", "--map-root-user", f"--root={directory}"]
        try:
            done = subprocess.run(
                [*(as_root if os.geteuid() == 0 else as_user), "/trial"],
                stdin=subprocess.DEVNULL, capture_output=True, check=False,
                timeout=_TRIAL_TIMEOUT_S, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return False
    return done.returncode == 0


def trial_program(architecture: str) -> bytes:
    """Return a static program of an architecture that exits with status 0."""
    machine = _MACHINES[architecture]
    code = bytes.fromhex(machine.code)
    order = ">" if machine.is_big_endian else "<"
    header_bytes, segment_bytes = (64, 56) if machine.is_64 else (52, 32)
    base = 0x400000
    start = header_bytes + segment_bytes
    size = start + len(code)
    identity = struct.pack(
        "4sBBB9x", b"\x7fELF", 2 if machine.is_64 else 1, 2 if machine.is_big_endian else 1, 1
    )
    word = "Q" if machine.is_64 else "I"
    header = struct.pack(
        f"{order}HHI{word}{word}{word}IHHHHHH",
        2, machine.number, 1, base + start, header_bytes, 0, machine.flags,
        header_bytes, segment_bytes, 1, 0, 0, 0,
    )  # fmt: skip
    readable_executable = 5
    if machine.is_64:
        segment = struct.pack(
            f"{order}IIQQQQQQ", 1, readable_executable, 0, base, base, size, size, 0x1000
        )
    else:
        segment = struct.pack(
            f"{order}IIIIIIII", 1, 0, base, base, size, size, readable_executable, 0x1000
        )
    return identity + header + segment + code
