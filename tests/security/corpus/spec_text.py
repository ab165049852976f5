"""Class I: Dockerfiles made to hurt. Refused with file, line and column, or read in no time."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from layerstore.build.dockerfile import limits
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.expand import expand_instruction, expand_word
from layerstore.build.dockerfile.parser import parse_dockerfile
from layerstore.build.lower import lower
from layerstore.build.lower_options import LowerOptions
from layerstore.build.native.includes import Root
from layerstore.build.platforms import Platform
from layerstore.errors import LimitExceededError
from tests.security.corpus.building import spec
from tests.security.corpus.model import Case, case
from tests.security.fuzz.seeds import AnyImage
from tests.support.native import lowered

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.build.lower_options import Plan
    from tests.security.corpus.model import Place

START = b"FROM scratch\n"
OPTIONS = LowerOptions({}, {}, None, True, Platform("linux", "amd64", ""))
PLACED = r"Dockerfile:\d+:\d+: "


def planned(text: bytes) -> Plan:
    return lower(parse_dockerfile(text), OPTIONS, AnyImage())


def text(entry: str, name: str, verdict: str, data: bytes | Callable[[], bytes], *,
         check: Callable[[Plan], object] | None = None, says: str = "") -> Case:  # fmt: skip
    """Return a case of a Dockerfile that is parsed and lowered to a graph."""

    def act(_place: Place) -> None:
        plan = planned(data if isinstance(data, bytes) else data())
        if check is not None:
            check(plan)

    return case(entry, name, verdict, act, entrance="parser",
                says=says or ("" if verdict == "S" else PLACED))  # fmt: skip


def quick(entry: str, name: str, data: Callable[[], bytes]) -> Case:
    """A text that is read in time linear in its size, whatever becomes of it."""

    def act(_place: Place) -> None:
        with contextlib.suppress(SpecError, LimitExceededError):
            tree = parse_dockerfile(data())
            for item in tree.stages[0].instructions:
                expand_instruction(item, {"a": "b"})

    return case(entry, name, "S", act, entrance="parser", seconds=4)


def _args(plan: Plan) -> None:
    assert plan.state.env["A"] == ""
    assert plan.state.env["B"] == ""


def _ports(plan: Plan) -> None:
    assert len(plan.state.config.exposed_ports) == 101


def _word(word: Callable[[], str]) -> Callable[[Place], None]:
    return lambda _place: expand_word(word(), {"A": "a" * 2**18})


def _doubling() -> bytes:
    return START + b"ARG A=aaaaaaaa\n" + b"ARG A=$A$A\n" * 40


_REFUSED = [
    ("I01", "empty", b""),
    ("I01", "byte order mark", b"\xef\xbb\xbf"),
    ("I01", "comments", b"# a\n\n# b\n"),
    ("I02", "in a command", START + b"RUN a\0b\n"),
    ("I02", "alone", b"\0"),
    ("I03", "in a command", START + b"RUN \xff\xfe\n"),
    ("I03", "overlong slash", START + b"COPY \xc0\xaf /\n"),
    ("I03", "surrogate", START + b"RUN \xed\xa0\x80\n"),
    ("I04", "substring", START + b"ENV A=${0:+0}${1:0}\n"),
    ("I04", "no operator", START + b"ENV A=${a:}\n"),
    ("I04", "arithmetic", START + b"ENV A=${a^^}\n"),
    ("I05", "nothing behind", START + b"COPY \\"),
    ("I05", "one path", START + b"COPY \\\n x"),
    ("I06", "here-document", START + b"RUN <<EOF\nx\n"),
    ("I06", "quote", START + b'ENV A="x\n'),
    ("I06", "single quote", START + b"ENV A='x\n"),
    ("I06", "brace", START + b"ENV A=${x\n"),
    ("I06", "mount's quote", START + b'RUN --mount="type=bind x\n'),
    ("I07", "another frontend", b"# syntax=evil.example/frontend:1\n" + START),
    ("I07", "frontend by digest", b"# syntax=evil@sha256:" + b"a" * 64 + b"\n" + START),
    ("I08", "itself", b"FROM none AS none\n"),
    ("I08", "later", b"FROM none AS a\nFROM a AS none\n"),
    ("I08", "copy from itself", b"FROM scratch AS a\nCOPY --from=a x /\n"),
    (
        "I08",
        "copy from later",
        b"FROM scratch\nCOPY --from=b x /\nFROM scratch AS b\nCOPY --from=0 / /\n",
    ),
    ("I08", "number", b"FROM scratch\nCOPY --from=7 x /\n"),
    ("I09", "onbuild", START + b"ONBUILD ONBUILD RUN x\n"),
    ("I09", "from", START + b"ONBUILD FROM x\n"),
    ("I09", "maintainer", START + b"ONBUILD MAINTAINER x\n"),
    ("I10", "1e99h", START + b"HEALTHCHECK --interval=1e99h CMD x\n"),
    ("I10", "overflow", START + b"HEALTHCHECK --interval=99999999999h CMD x\n"),
    ("I10", "negative", START + b"HEALTHCHECK --interval=-1s CMD x\n"),
    ("I10", "retries", START + b"HEALTHCHECK --retries=99999999999999999999 CMD x\n"),
    ("I11", "70000", START + b"EXPOSE 70000\n"),
    ("I11", "-1", START + b"EXPOSE -1\n"),
    ("I11", "backwards", START + b"EXPOSE 90-80\n"),
    ("I11", "protocol", START + b"EXPOSE 80/evil\n"),
    ("I12", "root", START + b"VOLUME /\n"),
    ("I12", "root in disguise", START + b'VOLUME ["/x/.."]\n'),
    ("I12", "double slash", START + b"VOLUME //\n"),
    ("I13", "empty", START + b"ENV =x\n"),
    ("I13", "expanded", START + b"ENV $NOTHING=x\n"),
    ("I23", "ARG doubling", _doubling()),
    ("I23", "ENV doubling", START + b"ENV A=aaaaaaaa\n" + b"ENV A=$A$A\n" * 40),
]
_LIMITED = [
    ("I20", "one line", START + b"RUN " + b"a" * 10 * 2**20, "bytes"),
    ("I20", "2 MiB", START + b"RUN " + b"a" * 2 * 2**20, "characters"),
    ("I21", "comments", START + b"#\n" * 1_000_000, "lines"),
    ("I22", "100,000", START + b"RUN a" + b" \\\nb" * 100_000, "continuation"),
    ("I24", "10,000", START + b"ENV A=" + b"${a:-" * 10_000 + b"}" * 10_000, "nested"),
    ("I24", "pattern of 300", START + b"ENV A=${B#" + b"?" * 300 + b"}", "pattern"),
    ("I25", "16 MB", START + b"RUN <<EOF\n" + b"endless\n" * 2_000_000, "bytes"),
    ("I26", "10,000", b"FROM scratch\n" * 10_000, "stages"),
    ("I27", "one variable", START + b"ENV A=" + b"a" * 2**20, "characters"),
    (
        "I27",
        "variables",
        START + b"".join(b"ENV A%d=" % i + b"x" * 200_000 + b"\n" for i in range(40)),
        "",
    ),
]
_SAFE: list[tuple[str, str, bytes, Callable[[Plan], object] | None]] = [
    ("I07", "docker's own", b"# syntax=docker/dockerfile:1.99-labs\n" + START, None),
    ("I15", "mutual", START + b"ARG A=$B B=$A\n", _args),
    ("I16", "range", START + b"EXPOSE 8000-8100/tcp\n", _ports),
    ("I18", "label", START + b"LABEL a='(a+)+$" + b"a" * 50_000 + b"'\n", None),
    ("I19", "quoted delimiter", b'FROM x\nRUN <<-"E O F"\n\techo $x\n\tE O F\n', None),
    ("I19", "backtick", b"# escape=`\nFROM x\nENV A=b`\n  C=d\nRUN dir C:\\`\n  x\n", None),
    ("I19", "no JSON", b"FROM x\nCMD ['a', 'b']\nCMD [\"a\", \"b\"\n", None),
]


def _line(size: int) -> bytes:
    return START + b"RUN " + b"a" * (size - 4) + b"\n"


_BOUNDS = [
    ("I20", "file", lambda n: START + b"#" + b"a" * (n - len(START) - 1), limits.MAX_FILE_BYTES),
    ("I20", "line", _line, limits.MAX_LINE_CHARS),
    ("I21", "lines", lambda n: START + b"\n" * (n - 2), limits.MAX_LINES),
    (
        "I22",
        "continuations",
        lambda n: START + b"RUN a \\\n" + b"b \\\n" * (n - 2) + b"c\n",
        limits.MAX_CONTINUATIONS,
    ),
    ("I24", "nesting", lambda n: START + b"ENV A=" + b"${a:-" * n + b"}" * n, limits.MAX_NESTING),
    ("I24", "pattern", lambda n: START + b"ENV A=${B#" + b"a" * n + b"}", limits.MAX_PATTERN_CHARS),
    ("I26", "stages", lambda n: b"FROM scratch\n" * n, limits.MAX_STAGES),
]


def _bounds() -> list[Case]:
    return [
        case(entry, f"{name} of {limit:,}: {word}", verdict,
             lambda _place, make=make, n=limit + more: parse_dockerfile(make(n)), entrance="parser")
        for entry, name, make, limit in _BOUNDS
        for word, more, verdict in (("less", -1, "S"), ("exactly", 0, "S"), ("more", 1, "L"))
    ]  # fmt: skip


_QUICK = [
    (b"RUN ", b"'\"", 500_000, b""), (b"ENV ", b'A="\\x\\y" ', 90_000, b""),
    (b'ENV A="', b"\\a", 500_000, b'"'), (b"COPY --chown=", b"'\\", 500_000, b" a b"),
    (b"COPY ", b"--x=' ", 150_000, b""), (b"COPY ", b"a ", 500_000, b""),
    (b"RUN ", b"<<a ", 250_000, b""), (b"RUN ", b"<<'a' ", 150_000, b""),
    (b"RUN ", b"$", 1_000_000, b""), (b"RUN <<E ", b"${a} ", 200_000, b""),
    (b"CMD [", b'"a",', 250_000, b'"a"]'), (b"CMD [", b'"a",', 250_000, b""),
    (b"CMD ", b"[", 1_000_000, b""), (b"CMD ", b'[{"a":', 160_000, b""),
    (b"RUN --mount=", b'"a', 400_000, b" x"),
    (b"RUN --mount=", b"source=a,", 100_000, b"target=/b x"),
    (b"EXPOSE ", b"0-65535 ", 130_000, b""),
    (b"HEALTHCHECK --interval=", b"1s", 500_000, b" CMD x"),
    (b"HEALTHCHECK --interval=", b"9", 1_000_000, b"s CMD x"),
    (b"HEALTHCHECK --retries=", b"9", 1_000_000, b" CMD x"), (b"EXPOSE ", b"9", 1_000_000, b""),
    (b"COPY --chmod=", b"u=", 500_000, b" a b"), (b"COPY --chmod=", b"7", 1_000_000, b" a b"),
    (b"STOPSIGNAL ", b"9", 1_000_000, b""), (b"", b"A", 1_000_000, b" x"),
    (b"ENV A=${", b"a", 1_000_000, b"}"), ("ENV A=${²}".encode(), "$²".encode(), 300_000, b""),
    (b"LABEL ", b"(a+)+$", 150_000, b""), (b"RUN x \\\n", b"# comment\n", 190_000, b"y\n"),
    (b"", b"\\\n", 15_000, b""),
]  # fmt: skip
_OTHER = {
    "directive": lambda: b"# " + b"a" * 1_000_000 + b"=\n" + START,
    "syntax": lambda: b"# syntax=docker/dockerfile:" + b"a" * 1_000_000 + b"\n" + START,
    "byte order marks": lambda: b"\xef\xbb\xbf" * 1000,
    "bytes ff": lambda: b"\xff" * 2**20,
    "NULs": lambda: b"RUN \0" * 2**18,
}


def _patterns() -> list[Case]:
    texts = {"*a": "*a" * 128, "a?": "a?" * 127 + "b", "*": "*" * 256, "?": "?" * 256}
    return [
        case("I18", f"${{A{form}{name}...}}", "S",
             _word(lambda p=pattern, f=form: f"${{A{f}{p}" + ("/}" if "/" in f else "}")),
             entrance="expansion", seconds=4)
        for name, pattern in texts.items()
        for form in ("#", "##", "%", "%%", "/", "//")
    ]  # fmt: skip


_NATIVE = [
    ("R", "alias bomb", b"a: &a [x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n"),
    ("R", "object", b"run = !!python/object/apply:os.system ['id']\n"),
    ("R", "circle", b"base.stage = 'a'\nstages.a.base.stage = 'b'\nstages.b.base.stage = 'a'\n"),
    ("R", "itself", b"include = 'layerstore.toml'\n"),
    ("R", "duplicate key", b"user = 'a'\nuser = 'b'\n"),
    ("R", "duplicate table", b"[env]\nA = '1'\n[env]\nA = '2'\n"),
    ("L", "lists", b"run = " + b"[" * 100_000 + b"]" * 100_000),
    ("L", "tables", b"a = " + b"{a = " * 100_000 + b"1" + b"}" * 100_000),
    ("L", "dots", b"a" + b".a" * 100_000 + b" = 1\n"),
    ("L", "variants", b"[matrix]\n" + b"".join(b"a%d = ['1', '2']\n" % n for n in range(64))),
    ("L", "expansion", b"args.a = '" + b"x" * 2**19 + b"'\nenv.A = '" + b"{{a}}" * 9 + b"'\n"),
]  # fmt: skip


def _native() -> list[Case]:
    """What YAML readers fell for, told to a spec in TOML."""

    def case_of(verdict: str, name: str, data: bytes) -> Case:
        def act(place: Place) -> None:
            lowered(data.decode(), root=Root(place.scratch, "layerstore.toml", ""))

        return case(
            "I14", name, verdict, act, entrance="parser", says=r"layerstore\.toml:\d+:\d+: "
        )

    return [case_of(*each) for each in _NATIVE]


def _escaped() -> list[Case]:
    """What an error quotes is shown with every character that acts written as an escape."""
    return [
        text("I17", name, "R", f"FROM scratch\nRUNN{char} x\n".encode(), says=r"^[ -~]*$")
        for name, char in {"right to left": "\u202e", "isolate": "\u2066", "escape": "\x1b[2J",
                           "zero width": "\u200b", "C1": "\x9b"}.items()
    ]  # fmt: skip


CASES = [
    *(text(entry, name, "R" if entry != "I23" else "L", data) for entry, name, data in _REFUSED),
    *(text(entry, name, "L", data, says=says) for entry, name, data, says in _LIMITED),
    *(text(entry, name, "S", data, check=check) for entry, name, data, check in _SAFE),
    *_bounds(),
    *(quick("I18", f"{start.decode(errors='replace')}{piece.decode(errors='replace')}...",
            lambda s=start, p=piece, n=count, e=end: START + s + p * n + e)
      for start, piece, count, end in _QUICK),
    *(quick("I18", name, data) for name, data in _OTHER.items()),
    *_patterns(),
    *_escaped(),
    *_native(),
    text("I17", "homoglyph", "R", "FROM scratch\nR\u0423N x\n".encode()),
    spec("I01", "build", "R", b""),
]  # fmt: skip
