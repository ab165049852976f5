"""Class K: RUN. What is refused names its place; what runs sees its root and nothing else."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from layerstore.formats.tar_limits import Limits
from layerstore.formats.tree import Entry, Kind
from layerstore.image.layers import layer_writer
from layerstore.image.layers.layer_writer import LayerItem
from tests.security.corpus.building import RUNC, built, hostile_base, link, spec, with_base
from tests.security.corpus.model import Case, case

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.security.corpus.building import Built
    from tests.security.corpus.model import Place

PLACED = r"Dockerfile:\d+:\d+"


def refused(entry: str, name: str, line: str, says: str = PLACED) -> Case:
    """A line that is refused before anything runs."""
    return spec(entry, name, "R", f"FROM scratch\n{line}\n", says=says)


def ran(entry: str, name: str, line: str, *, says: bytes = b"", verdict: str = "S",
        check: Callable[[Built], object] | None = None) -> Case:  # fmt: skip
    """A line that runs over the base; ``says`` is in its output."""

    def look(result: Built) -> None:
        assert says in result.ui.text, result.ui.text
        if check is not None:
            check(result)

    return spec(entry, name, verdict, f"FROM box\n{line}\n", check=look, needs=RUNC)


def over(entry: str, name: str, verdict: str, lines: str,
         *items: Callable[[Place], LayerItem]) -> Case:  # fmt: skip
    """Lines that run over a hostile base; ``{canary}`` is the canaries' directory."""

    def act(place: Place) -> None:
        hostile_base(place, "evil", *(make(place) for make in items))
        text = lines.replace("{canary}", os.fsdecode(place.canary("directory")))
        built(place, f"FROM evil\n{text}\n", secrets={"s": b"secret"})

    return case(entry, name, verdict, act, entrance="build", needs=RUNC)


def to_canary(path: str, how: str = "{}") -> Callable[[Place], LayerItem]:
    """A symlink of the image to a directory of the host."""
    return lambda place: link(path, how.format(os.fsdecode(place.canary("directory"))))


def _program(path: str, content: bytes) -> Callable[[Place], LayerItem]:
    def make(_place: Place) -> LayerItem:
        entry = Entry(path=path.encode(), kind=Kind.FILE, mode=0o755, size=len(content))
        return LayerItem(entry, lambda: io.BytesIO(content))

    return make


_MARKS = (
    "for f in /etc/hosts /etc/resolv.conf; do (echo evil >> $f) 2>/dev/null && echo WROTE; done"
)


def _did_not_write(result: Built) -> None:
    assert b"WROTE" not in result.ui.text
    with open("/etc/hosts") as file:
        assert "evil" not in file.read()


def _planted(place: Place) -> None:
    """Programs with known names in the image and the context; an archive that needs one."""
    ran_mark = place.scratch / "ran"
    script = f"#!/bin/sh\ntouch {ran_mark}\n"
    names = ("xz", "gzip", "tar", "git", "python3", "runc", "zstd", "fusermount")
    with_base(place)
    built(
        place,
        "FROM box\nCOPY --chmod=755 xz gzip tar git python3 runc zstd fusermount /usr/bin/\n"
        "ADD archive.xz /x/\nRUN true\n",
        {**dict.fromkeys(names, script), "archive.xz": b"\xfd7zXZ\0 not really"},
    )
    assert not ran_mark.exists()


def _daemon(place: Place) -> None:
    with_base(place)
    # Seconds that no process of another test run has in its command line.
    one, other = (f"{number}{os.getpid()}" for number in (9876, 9877))
    built(place, f"FROM box\nRUN (sleep {one} &) ; (setsid sleep {other} &) ; true\n")
    left = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if one.encode() in words or other.encode() in words:
                left.append(name)
    assert not left


def _secret(place: Place) -> None:
    secret = b"canary-" + os.urandom(8).hex().encode()
    with_base(place)
    built(place, "FROM box\nRUN --mount=type=secret,id=s cat /run/secrets/s | sha256sum; "
                 "cp /run/secrets/s /dev/shm/x; stat -f -c %T /run/secrets/s\n",
          secrets={"s": secret})  # fmt: skip
    for folder, _, names in os.walk(place.store_root):
        for name in filter(lambda name: os.path.isfile(f"{folder}/{name}"), names):
            with open(f"{folder}/{name}", "rb") as file:
                assert secret not in file.read(), name


def _cache_names(place: Place) -> None:
    with_base(place)
    for identity in ("../../etc", "/", "..", "a/b", "%s", "\u202e"):
        built(place, f"FROM box\nRUN --mount=type=cache,id={identity},target=/c touch /c/x\n")
    for name in os.listdir(place.store_root / "cache-mounts"):
        assert len(name) == 32
        assert not set(name) - set("0123456789abcdef")


def _race(place: Place) -> None:
    """Four stages at once count in one locked cache."""
    with_base(place)
    line = ("RUN --mount=type=cache,id=race,target=/c,sharing=locked "
            "n=$(cat /c/n 2>/dev/null || echo 0); sleep 0.1; echo $((n+1)) > /c/n\n")  # fmt: skip
    stages = "".join(f"FROM box AS s{number}\nENV N={number}\n{line}" for number in range(4))
    last = "FROM box\n" + "".join(
        f"COPY --from=s{number} /etc/passwd /p{number}\n" for number in range(4)
    )
    result = built(place, stages + last + "RUN --mount=type=cache,id=race,target=/c cat /c/n\n")
    assert result.ui.text.strip().endswith(b"4"), result.ui.text


def _output_line(place: Place) -> None:
    """It is passed on in pieces."""
    with_base(place)
    sizes = []
    result = built(
        place, "FROM box\nRUN dd if=/dev/zero bs=1M count=64 2>/dev/null\n",
        on_output=lambda data: sizes.append(len(data)),
    )  # fmt: skip
    assert not result.ui.text
    assert sum(sizes) == 64 << 20
    assert max(sizes) <= 64 << 10


def _many_files(place: Place) -> None:
    """More than a layer may have, which is lowered to a thousand."""
    layer_writer.LIMITS = Limits(entries=1000)
    with_base(place)
    built(place, "FROM box\nRUN i=0; while [ $i -lt 1100 ]; do : > f$i; i=$((i+1)); done\n")


_DEEP = (
    "RUN p=d; for i in 1 2 3 4 5 6 7 8 9; do p=$p/$p; [ ${{#p}} -gt 1500 ] && break; done; "
    "for j in $(seq 20); do mkdir -p $p && cd $p || exit 4; done; echo x > file; exit {}"
)
_READ_HOST = "RUN cat ../../../../../../../../../..{canary}/../secret"


def _host_not_seen(path: str) -> Callable[[Place], None]:
    """A step that starts where a descriptor of the host's might be does not see the host."""

    def act(place: Place) -> None:
        with_base(place)
        line = _READ_HOST.replace("{canary}", os.fsdecode(place.canary("directory")))
        built(place, f"FROM box\nWORKDIR {path}\n{line}\n")

    return act


_FORBIDDEN = ("/", "/proc", "/dev", "/sys", "..", "/a/../proc", "/proc/", ".", "/./dev/.")

CASES = [
    refused("K01", "shared", "RUN --mount=type=bind,rw,bind-propagation=shared,target=/x true"),
    refused("K01", "recursive", "RUN --mount=type=bind,bind-recursive=enabled,target=/x true"),
    *(refused("K02", f"{kind} on {target}", f"RUN --mount=type={kind},target={target} true")
      for kind in ("bind", "cache", "tmpfs") for target in _FORBIDDEN),
    *(refused("K02", f"{kind} on {target}", f"RUN --mount=type={kind},id=x,target={target} true")
      for kind in ("secret", "ssh") for target in _FORBIDDEN),
    refused("K03", "required", "RUN --mount=type=secret,id=absent,required true"),
    refused("K04", "insecure", "RUN --security=insecure true"),
    refused("K04", "device", "RUN --device=/dev/sda true"),
    refused("K04", "network", "RUN --network=bridge true"),
    refused("K04", "ssh", "RUN --mount=type=ssh,required true"),
    *(case("K05", path, "R", _host_not_seen(path), entrance="build", needs=RUNC)
      for path in ("/proc/self/fd/7", "/proc/self/fd/8", "/proc/self/cwd", "/proc/1/root")),
    refused("K06", "NUL", "RUN --mount=type=cache,id=a\0b,target=/c true", says=""),
    spec("K06", "1 MiB", "L",
         f"FROM scratch\nRUN --mount=type=cache,id={'a' * (1 << 20)},target=/c true\n"),
    refused("K06", "5,000", f"RUN --mount=type=cache,id={'a' * 5000},target=/c true"),
    case("K07", "hashed", "S", _cache_names, entrance="build", needs=RUNC),
    over("K08", "target", "S", "RUN --mount=type=cache,target=/w touch /w/evil", to_canary("w")),
    over("K08", "below", "S", "RUN --mount=type=cache,target=/w/x touch /w/x/evil", to_canary("w")),
    over("K08", "through proc", "S", "RUN --mount=type=tmpfs,target=/w/x touch /w/x/evil",
         to_canary("w", "/proc/1/root{}")),
    over("K09", "source", "R",
         "RUN --mount=from=evil,source=/w,target=/o,rw touch /o/evil", to_canary("w")),
    over("K09", "through proc", "R",
         "RUN --mount=from=evil,source=/w,target=/o,rw touch /o/evil",
         to_canary("w", "/../../proc/self/root{}")),
    *(over("K10", f"{name} with a link in the place of {path}", "S",
           "RUN --mount=type=secret,id=s true; (echo evil >> /{path}) 2>/dev/null; true"
           .replace("{path}", path), to_canary(path, how))
      for name, path in (("hosts", "etc/hosts"), ("resolver", "etc/resolv.conf"))
      for how in ("{}/../secret", "/proc/1/root{}/../secret", "../../../..{}/../secret")),
    *(over("K10", f"working directory behind {how.format('...')}", "R",
           "WORKDIR /w/x\nRUN touch evil", to_canary("w", how))
      for how in ("{}", "/proc/1/root{}", "../../../../..{}")),
    over("K10", "secret", "S", "RUN --mount=type=secret,id=s,target=/w/a/b cat /w/a/b",
         to_canary("w")),
    over("K10", "parents", "S", "RUN --mount=type=secret,id=s,target=/w/../../a cat /a",
         to_canary("w", "../../../../../..{}")),
    case("K11", "four stages", "S", _race, entrance="build", needs=RUNC),
    over("K12", "parent becomes a symlink", "S",
         "RUN --mount=type=cache,target=/a/b/c mv /a /z && ln -s {canary} /a"),
    over("K12", "mount point's directory", "S",
         "RUN --mount=type=secret,id=s,target=/q/s true; mv /q /z; ln -s {canary}/.. /q"),
    *(over("K12", f"{kind} over what leads to {where or 'the root'}", "R",
           f"RUN --mount=type={kind},target=/w touch /w/evil",
           lambda _place, where=where: link("w", f"/{where}"))
      for kind in ("tmpfs", "cache,id=c", "secret,id=s", "bind,from=box,rw")
      for where in ("", "proc", "sys", "dev")),
    case("K13", "nowhere in the store", "S", _secret, entrance="build", needs=RUNC),
    case("K14", "two", "S", _daemon, entrance="build", needs=RUNC),
    *(over("K15", f"{path}, {how.format('...')}", verdict,
           "RUN --mount=type=secret,id=s echo x > /run/x; echo y > /etc/y; true",
           to_canary(path, how))
      for path, verdict in (("etc", "S"), ("run", "S"), ("dev", "R"), ("proc", "R"), ("sys", "R"))
      for how in ("{}", "../../../../../../..{}", "/proc/1/root{}")),
    over("K16", "the runtime itself", "R", "RUN echo x",
         lambda _place: link("bin/sh", "/proc/self/exe")),
    over("K16", "a script by the runtime", "R", "RUN echo x",
         _program("bin/sh", b"#!/proc/self/exe\n")),
    over("K16", "host's", "R", "RUN echo x", lambda _place: link("bin/sh", "/usr/bin/dpkg")),
    case("K17", "eight", "S", _planted, entrance="build", needs=RUNC),
    ran("K18", "ls", "RUN ls -l /proc/self/fd | grep -c -- '->'", says=b"3\n"),
    ran("K18", "to the host", "RUN for f in /proc/self/fd/*; do [ -d $f/ ] && ls $f/..; done; true",
        check=lambda result: _says_not(result, b"canaries")),
    ran("K19", "umount", "RUN umount /proc 2>&1 || umount -l /sys 2>&1 || echo DENIED",
        says=b"DENIED"),
    ran("K19", "mount", "RUN mount -t tmpfs x /tmp 2>&1 || mount -o remount,rw /sys || echo DENIED",
        says=b"DENIED"),
    ran("K19", "host's files", f"RUN {_MARKS}; true", check=_did_not_write),
    ran("K20", "chattr", "RUN touch f; /bin/busybox chattr +i f 2>&1 || echo DENIED",
        says=b"DENIED"),
    ran("K21", "failed step", _DEEP.format(3), verdict="R"),
    ran("K21", "layer", _DEEP.format(0), verdict="R"),
    ran("K22", "tmpfs of 1 EiB", "RUN --mount=type=tmpfs,target=/t,size=1152921504606846976 true"),
    ran("K22", "tmpfs of 1 MiB",
        "RUN --mount=type=tmpfs,target=/t,size=1m "
        "dd if=/dev/zero of=/t/x bs=1M count=3 || echo FULL",
        says=b"FULL"),
    case("K25", "1,100 of 1,000", "L", _many_files, entrance="build", needs=RUNC, says="entries"),
    case("K26", "64 MiB", "S", _output_line, entrance="build", needs=RUNC),
]  # fmt: skip


def _says_not(result: Built, words: bytes) -> None:
    assert words not in result.ui.text
