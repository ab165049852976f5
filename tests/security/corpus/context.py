"""Class J: build contexts, and what COPY and ADD take from them."""

from __future__ import annotations

import ctypes
import io
import os
import signal
from typing import TYPE_CHECKING

import zstandard

from layerstore.build.context import Context
from layerstore.build.ignore import IgnoreRules
from layerstore.errors import LayerstoreError
from layerstore.formats.tree import Kind
from layerstore.linux import mounts
from tests.security.corpus.building import built, spec
from tests.security.corpus.model import Case, Way, case
from tests.security.corpus.tar_headers import MIB
from tests.support.namespaces import enter_private_mount_namespace
from tests.support.tars import END, member, sparse_1

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.security.corpus.building import Built
    from tests.security.corpus.model import Place

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def context_of(place: Place):
    context = place.scratch / "context"
    context.mkdir(exist_ok=True)
    return context


def _link_out(target: str, source: str = "l") -> Callable[[Place], None]:
    def act(place: Place) -> None:
        (context_of(place) / "l").symlink_to(os.fsdecode(place.canary(target)))
        built(place, f"FROM scratch\nCOPY {source} /x\n")

    return act


def _relative_link(place: Place) -> None:
    (context_of(place) / "l").symlink_to("../../canaries/secret")
    built(place, "FROM scratch\nCOPY l /x\n")


def _special(make: Callable[[str], object]) -> Callable[[Place], None]:
    def act(place: Place) -> None:
        make(os.fspath(context_of(place) / "special"))
        built(place, "FROM scratch\nCOPY . /x\n")

    return act


def _link_stays(place: Place) -> None:
    context = context_of(place)
    (context / "l").symlink_to("/etc/shadow")
    (context / "canary").symlink_to(os.fsdecode(place.canary("secret")))
    files = built(place, "FROM scratch\nCOPY . /x\n").files
    assert files["x/l"].kind is Kind.SYMLINK
    assert files["x/l"].target == b"/etc/shadow"
    assert files["x/canary"].kind is Kind.SYMLINK


def _proc(path: str) -> Callable[[Place], None]:
    def act(place: Place) -> None:
        link = place.scratch / "link"
        link.symlink_to(path)
        built(place, "FROM scratch\nCOPY . /x\n", context=link)

    return act


def _tar_context(place: Place) -> None:
    tar = place.scratch / "context.tar"
    tar.write_bytes(member(b"Dockerfile", b"FROM scratch\n") + END)
    built(place, "FROM scratch\nCOPY . /x\n", context=tar)


def _exchanged(place: Place) -> None:
    """A directory and a symlink to the host's change places all the time."""
    context = context_of(place)
    (context / "d").mkdir()
    for number in range(40):
        (context / "d" / f"secret{number}").write_bytes(b"inside")
    (context / "d" / "secret").write_bytes(b"inside")
    (context / "e").symlink_to(place.canaries)
    swapper = os.fork()
    if swapper == 0:
        libc = ctypes.CDLL(None)
        one, two = os.fsencode(context / "d"), os.fsencode(context / "e")
        while True:
            libc.renameat2(_AT_FDCWD, one, _AT_FDCWD, two, _RENAME_EXCHANGE)
    try:
        outcomes = {_secret_of(place) for _ in range(25)}
        assert outcomes <= {b"inside", b"refused"}, outcomes
    finally:
        os.kill(swapper, signal.SIGKILL)
        os.waitpid(swapper, 0)


def _secret_of(place: Place) -> bytes:
    try:
        files = built(place, "FROM scratch\nCOPY d /x\n", no_cache=True).files
    except LayerstoreError:
        return b"refused"
    if files["x"].kind is not Kind.DIR:
        return b"refused"  # the link itself was copied
    return files["x/secret"].content


def _linked_context(place: Place) -> None:
    context = context_of(place)
    (context / "a").write_bytes(b"A")
    link = place.scratch / "link"
    link.symlink_to(context)
    assert built(place, "FROM scratch\nCOPY . /x\n", context=link).files["x/a"].content == b"A"


def _changes_meanwhile(place: Place) -> None:
    """Between hashing and copying, with size and time kept."""
    path = context_of(place) / "a"
    path.write_bytes(b"1" * 3_000_000)
    with Context(path.parent, IgnoreRules(), now_ns=0) as opened:
        node = opened.tree().children()[b"a"]
        node.content_digest()
        _edit(path, b"2" * 3_000_000)
        opener = node.opener()
        assert opener is not None
        with opener() as file:
            file.read(3_000_000)


def _edit(path, content: bytes) -> None:
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _edited(place: Place) -> None:
    path = context_of(place) / "a"
    dockerfile = "FROM scratch\nCOPY a /a\n"
    path.write_bytes(b"first")
    assert built(place, dockerfile).files["a"].content == b"first"
    _edit(path, b"other")
    assert built(place, dockerfile).files["a"].content == b"other"


def _hard_links(place: Place) -> None:
    context = context_of(place)
    (context / "a").write_bytes(b"A")
    for number in range(100):
        os.link(context / "a", context / f"l{number}")
    files = built(place, "FROM scratch\nCOPY . /x\n").files
    assert all(files[f"x/l{number}"].content == b"A" for number in range(100))


def _bind_loop(place: Place) -> None:
    """The context is mounted into itself, again and again; in a mount namespace of its own."""
    context = context_of(place)
    (context / "a").write_bytes(b"A")
    (context / "loop").mkdir()
    enter_private_mount_namespace()
    for _ in range(3):
        mounts.bind(os.fspath(context), os.fspath(context / "loop"))
    files = built(place, "FROM scratch\nCOPY . /x\n").files
    assert files["x/loop/a"].content == b"A"


def _ignored(built_: Built) -> None:
    found = {path for path, file in built_.files.items() if file.kind is Kind.FILE}
    assert found == {"x/a", "x/dir/sub/d", "x/deep/er/keep.o"}, found


def _rules(place: Place) -> None:
    rules = IgnoreRules.parse(b"".join(b"dir%d/**/*.o\n" % number for number in range(100_000)))
    for number in range(300):
        assert rules.excluded(f"dir{number}/a/b/x.o")
        assert not rules.excluded(f"other{number}/x.o")


def _rules_of_two_signs(place: Place) -> None:
    """The order of these counts: each is asked, so a path costs as much as there are rules."""
    lines = (b"dir%d/**/*.o\n!dir%d/keep\n" % (number, number) for number in range(50_000))
    rules = IgnoreRules.parse(b"".join(lines))
    for number in range(10):
        assert rules.excluded(f"dir{number}/a/b/x.o")
        assert not rules.excluded(f"dir{number}/keep")


def _too_many_rules(_place: Place) -> None:
    IgnoreRules.parse(b"x\n" * 200_001)


def _sparse(place: Place) -> None:
    with (context_of(place) / "a").open("wb") as file:
        file.truncate(1 << 40)
    built(place, "FROM scratch\nCOPY a /a\n")


def _bomb(entry: str, name: str, verdict: str, make: Callable[[], bytes], says: str = "") -> Case:
    def act(place: Place) -> None:
        (context_of(place) / "bomb").write_bytes(make())
        built(place, "FROM scratch\nADD bomb /x/\n")

    return Case(entry, name, (Way("ADD", verdict, act, says),))


def _zstd_bomb() -> bytes:
    packer = zstandard.ZstdCompressor().compressobj()
    out = io.BytesIO()
    out.write(packer.compress(member(b"a", b"", size=1 << 30)))
    for _ in range(1024):
        out.write(packer.compress(bytes(MIB)))
    out.write(packer.flush())
    return out.getvalue()


def _hollow(size: int) -> bytes:
    """A sparse file of one byte."""
    return sparse_1([(0, 1), (size, 0)], size, b"1") + END


def _many_files() -> bytes:
    return zstandard.compress(b"".join(member(b"%d" % i) for i in range(20_000)) + END)


def _bad_owner(owner: str) -> Case:
    return spec("J04", owner, "R", f"FROM scratch\nCOPY --chown={owner} a /\n", {"a": "A"})


_PLACED = r"Dockerfile:\d+:\d+"
_REMOTE = {
    "J05": ("http://localhost/x", "file:///etc/passwd", "ftp://localhost/x", "https://[::1]/x"),
    "J07": ("https://h.example/r.git#ref:../../etc", "git@h.example:r.git#a:../.."),
    "J08": ("https://127.0.0.1:9/r.git", "git://127.0.0.1:9/r", "file:///srv/r.git"),
    "J09": ("https://h.example/r.git#--upload-pack=x", "ssh://-oProxyCommand=x/r.git"),
}
_SECRET = {"a": "A", "secret": "S", ".dockerignore": "secret\n"}
_STAGE = "FROM scratch AS one\nCOPY . /\nFROM scratch\nCOPY --from=one {} /y\n"


def _stage_link(place: Place) -> None:
    (context_of(place) / "out").symlink_to(place.canaries)
    built(place, _STAGE.format("/out/secret"))


def _destination(place: Place) -> None:
    context = context_of(place)
    (context / "out").symlink_to(place.canaries / "directory")
    (context / "a").write_bytes(b"A")
    files = built(place, "FROM scratch\nCOPY . /\nCOPY a /out/evil\nCOPY a /out/../../up\n").files
    assert files["up"].content == b"A"


CASES = [
    case("J01", "absolute", "R", _link_out("secret"), entrance="build", says=_PLACED),
    case("J01", "directory", "R", _link_out(".", "l/secret"), entrance="build", says=_PLACED),
    case("J01", "relative", "R", _relative_link, entrance="build", says=_PLACED),
    spec("J01", "parent", "R", "FROM scratch\nCOPY ../canaries/secret /x\n", says=_PLACED),
    case("J02", "fifo", "R", _special(os.mkfifo), entrance="build", says="named pipe"),
    case("J02", "device", "R", _special(lambda path: os.mknod(path, 0o20600, os.makedev(1, 3))),
         entrance="build", says="device", needs=("root",)),
    case("J02", "link to a fifo", "R", _link_out("fifo"), entrance="build", says=_PLACED),
    spec("J03", "named", "R", "FROM scratch\nCOPY secret /x\n", _SECRET, says=_PLACED),
    spec("J03", "pattern", "S", "FROM scratch\nCOPY a secre[t] /x/\n", _SECRET,
         check=lambda result: _absent(result, "x/secret")),
    spec("J03", "all", "S", "FROM scratch\nCOPY . /x\n", _SECRET,
         check=lambda result: _absent(result, "x/secret")),
    *(_bad_owner(owner) for owner in ("nobody-here", "4294967296", "-1", "a:b:c", "0:nobody")),
    *(spec(entry, url, "R", f"FROM scratch\nADD {url} /x\n", says=_PLACED)
      for entry, urls in _REMOTE.items() for url in urls),
    spec("J06", "checksum", "R", f"FROM scratch\nADD --checksum=sha256:{'0' * 64} a /x\n",
         {"a": "A"}, says=_PLACED),
    case("J10", "tar", "R", _tar_context, entrance="build"),
    *(case("J11", path, "R", _proc(path), entrance="build") for path in
      ("/proc", "/proc/self", "/sys", "/dev", "/proc/self/fd")),
    case("J12", "shadow", "S", _link_stays, entrance="build"),
    case("J13", "25 builds", "S", _exchanged, entrance="build"),
    case("J14", "context", "S", _linked_context, entrance="build"),
    case("J15", "a large file", "R", _changes_meanwhile, entrance="context", says="changed"),
    case("J16", "edit", "S", _edited, entrance="build"),
    case("J17", "a hundred", "S", _hard_links, entrance="build"),
    case("J18", "three times", "S", _bind_loop, entrance="build", needs=("root",)),
    spec("J19", "all three", "S", "FROM scratch\nCOPY . /x\n", {
        ".dockerignore": "\ufeffdir\r\n!dir/sub/d\r\n**/*.o\r\n!**/keep.o\r\n.dockerignore\r\n",
        "a": "A", "dir/c": "C", "dir/sub/d": "D", "deep/er/x.o": "X", "deep/er/keep.o": "K",
    }, check=_ignored),
    case("J20", "100,000", "S", _rules, entrance=".dockerignore"),
    case("J20", "100,000, every second with !", "S", _rules_of_two_signs,
         entrance=".dockerignore"),
    case("J20", "200,001", "L", _too_many_rules, entrance=".dockerignore", says="limit"),
    spec("J21", "parents", "S", _STAGE.format("../../../a"), {"a": "A"},
         check=lambda result: _holds(result, "y", b"A")),
    case("J21", "symlink", "R", _stage_link, entrance="build", says=_PLACED),
    case("J22", "symlink", "S", _destination, entrance="build"),
    case("J23", "1 TiB", "L", _sparse, entrance="build"),
    _bomb("J24", "1 GiB of zeros", "L", _zstd_bomb, "ratio"),
    _bomb("J24", "8 EiB", "L", lambda: _hollow(2**63), "logical_bytes"),
    _bomb("J24", "1 TiB", "L", lambda: _hollow(1 << 40), "logical_bytes"),
    _bomb("J24", "64 GiB of holes", "S", lambda: _hollow(64 << 30)),
    _bomb("J24", "20,000 files", "S", _many_files),
]  # fmt: skip


def _absent(result: Built, path: str) -> None:
    assert path not in result.files


def _holds(result: Built, path: str, content: bytes) -> None:
    assert result.files[path].content == content
