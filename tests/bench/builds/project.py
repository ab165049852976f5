"""A made project of six stages and thirty steps, in syntax that every builder knows.

Debian packages, a compiler, an interpreter's and a web front end's dependencies, two thousand
source files, and what is taken from stage to stage: what a service in one repository looks like.
Its content is made from a fixed seed, so each run builds the same.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

BASE = "debian:bookworm"
STEPS = 30
STAGES = 6
SOURCE_FILES = 2_000

_SEED = 30
_REVISIONS = {".c": "//", ".js": "//", ".html": "<!-- -->", ".php": "//", ".sql": "--"}
"""How a line begins that changes nothing."""

_PACKAGES = 24
_MODULES = 40
_PYTHON_FILES = 1_400
_WEB_FILES = 560
_WORDS = [
    "account",
    "address",
    "balance",
    "batch",
    "buffer",
    "cache",
    "channel",
    "client",
    "config",
    "context",
    "cursor",
    "customer",
    "default",
    "delta",
    "device",
    "digest",
    "driver",
    "entry",
    "error",
    "event",
    "export",
    "field",
    "filter",
    "format",
    "gateway",
    "handler",
    "header",
    "index",
    "input",
    "invoice",
    "item",
    "journal",
    "label",
    "layer",
    "ledger",
    "limit",
    "listener",
    "lookup",
    "message",
    "method",
    "metric",
    "module",
    "node",
    "offset",
    "option",
    "order",
    "output",
    "packet",
    "parser",
    "payload",
    "pending",
    "policy",
    "process",
    "product",
    "profile",
    "queue",
    "reader",
    "record",
    "region",
    "report",
    "request",
    "result",
    "retry",
    "schema",
    "segment",
    "service",
    "session",
    "signal",
    "source",
    "state",
    "status",
    "stream",
    "subject",
    "summary",
    "target",
    "tenant",
    "ticket",
    "token",
    "total",
    "transfer",
    "update",
    "user",
    "value",
    "vendor",
    "version",
    "window",
    "worker",
    "writer",
]

DOCKERFILE = """\
FROM debian:bookworm AS toolchain
RUN apt-get update \\
 && apt-get install -y --no-install-recommends tcc libc6-dev make \\
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY Makefile ./
COPY native/ native/
RUN make -j2 objects
RUN make program check

FROM debian:bookworm AS base
ENV LANG=C.UTF-8 LC_ALL=C.UTF-8
RUN apt-get update \\
 && apt-get install -y --no-install-recommends python3-minimal libpython3-stdlib \\
 && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 1000 app && useradd --uid 1000 --gid app --create-home app  # @early@
WORKDIR /srv/app

FROM base AS dependencies
COPY requirements.txt tools/install.py /tmp/
COPY vendor/python/ /tmp/wheels/
RUN python3 /tmp/install.py /tmp/requirements.txt /tmp/wheels /opt/site
RUN python3 -m compileall -q /opt/site

FROM base AS web
COPY package.json ./
COPY vendor/node/ /tmp/node/
RUN mkdir node_modules && for each in /tmp/node/*.tgz; do tar -xzf "$each" -C node_modules; done
COPY web/ web/
COPY tools/bundle.py /tmp/
RUN python3 /tmp/bundle.py web node_modules /srv/static
RUN find /srv/static -name '*.js' -exec gzip -k -9 -n {} +

FROM base AS tests
COPY --from=dependencies /opt/site /opt/site
COPY src/ src/
COPY tools/selftest.py ./
RUN python3 selftest.py src /opt/site > /srv/report.txt

FROM base AS final
COPY --from=toolchain /build/service /usr/local/bin/service
COPY --from=dependencies /opt/site /opt/site
COPY --from=web /srv/static /srv/static
COPY --from=tests /srv/report.txt /srv/report.txt
COPY src/ src/
RUN python3 -m compileall -q src && chown -R app:app /srv/app  # @late@
USER app
EXPOSE 8080
CMD ["service"]
"""

_MAKEFILE = """\
OBJECTS := $(patsubst %.c,%.o,$(wildcard native/*.c))
objects: $(OBJECTS)
%.o: %.c
\ttcc -Inative -c $< -o $@
program: service
service: $(OBJECTS)
\ttcc -o $@ $(OBJECTS)
check: service
\t./service --sum > checked.txt
"""

_INSTALL = """\
import sys, tarfile
from pathlib import Path
listed, wheels, target = map(Path, sys.argv[1:])
for line in listed.read_text().split():
    with tarfile.open(wheels / f"{line}.tar.gz") as archive:
        archive.extractall(target)
"""

_BUNDLE = """\
import sys
from pathlib import Path
web, modules, target = map(Path, sys.argv[1:])
target.mkdir(parents=True)
for top in sorted(path for path in web.iterdir() if path.is_dir()):
    parts = [path.read_text() for path in sorted(top.rglob("*.js"))]
    (target / f"{top.name}.js").write_text("\\n".join(parts))
vendor = [path.read_text() for path in sorted(modules.rglob("*.js"))]
(target / "vendor.js").write_text("\\n".join(vendor))
"""

_SELFTEST = """\
import ast, sys
from pathlib import Path
source, site = map(Path, sys.argv[1:])
functions = 0
for path in sorted(source.rglob("*.py")):
    functions += sum(isinstance(node, ast.FunctionDef) for node in ast.parse(path.read_text()).body)
print(functions, "functions,", len(list(site.rglob("*.py"))), "files of dependencies")
"""


def make_project(context: Path) -> None:
    """Write the project's build context, Dockerfile included, into a new directory."""
    context.mkdir()
    chance = random.Random(_SEED)
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "Makefile").write_text(_MAKEFILE)
    (context / "package.json").write_text(json.dumps({"name": "service", "version": "1.0.0"}))
    _write_all(
        context / "tools",
        {"install.py": _INSTALL, "bundle.py": _BUNDLE, "selftest.py": _SELFTEST},
    )
    _write_all(context / "native", _native(chance))
    _write_all(
        context / "src",
        {
            f"{_WORDS[number % 70]}/{_name(chance)}{number}.py": _python(chance)
            for number in range(_PYTHON_FILES)
        },
    )
    _write_all(
        context / "web",
        {
            f"part{number % 14}/{_name(chance)}{number}.js": _script(chance)
            for number in range(_WEB_FILES)
        },
    )
    names = [f"library{number}" for number in range(_PACKAGES)]
    (context / "requirements.txt").write_text("\n".join(names) + "\n")
    for name in names:
        files = {f"{name}/{_name(chance)}{n}.py": _python(chance) for n in range(40)}
        _archive(context / "vendor" / "python" / f"{name}.tar.gz", files)
        files = {f"{name}/{_name(chance)}{n}.js": _script(chance) for n in range(30)}
        _archive(context / "vendor" / "node" / f"{name}.tgz", files)


@dataclass(frozen=True)
class Project:
    """Something to build.

    Attributes:
        name: Of the image.
        context: Its build context, with a Dockerfile.
        source: The file that changes.
    """

    name: str
    context: Path
    source: Path

    def change_source(self, number: int) -> None:
        """Change one source file in a way of its own for each number."""
        text = self.source.read_text()
        kept = [line for line in text.splitlines() if not _is_revision(line)]
        mark = _REVISIONS.get(self.source.suffix, "#")
        self.source.write_text("\n".join([*kept, f"{mark} revision {number}"]) + "\n")

    def change_early_step(self, number: int) -> None:
        """Change the second step of the stage that four others begin with."""
        self._change_step("early", number)

    def change_late_step(self, number: int) -> None:
        """Change the last step."""
        self._change_step("late", number)

    def _change_step(self, which: str, number: int) -> None:
        path = self.context / "Dockerfile"
        marked = re.compile(rf"(?m)(?: && : \d+)?  # @{which}@$")
        text, count = marked.subn(f" && : {number}  # @{which}@", path.read_text())
        assert count == 1, f"{path} has no step @{which}@"
        path.write_text(text)


def _is_revision(line: str) -> bool:
    return any(line.startswith(f"{mark} revision ") for mark in (*_REVISIONS.values(), "#"))


def made_project(context: Path) -> Project:
    """Make the project in a new directory."""
    make_project(context)
    return Project("project", context, min((context / "src").rglob("*.py")))


def _write_all(top: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _archive(path: Path, files: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data := text.encode())
            archive.addfile(member, io.BytesIO(data))


def _name(chance: random.Random) -> str:
    return chance.choice(_WORDS)


def _native(chance: random.Random) -> dict[str, str]:
    files = {f"module{number}.c": _c_module(chance, number) for number in range(_MODULES)}
    declared = "\n".join(f"int module{number}(int value);" for number in range(_MODULES))
    files["modules.h"] = declared + "\n"
    calls = "\n".join(f"    sum += module{number}(sum);" for number in range(_MODULES))
    files["main.c"] = (
        '#include <stdio.h>\n#include "modules.h"\nint main(void)\n{\n    int sum = 1;\n'
        f'{calls}\n    printf("%d\\n", sum);\n    return 0;\n}}\n'
    )
    return files


def _c_module(chance: random.Random, number: int) -> str:
    functions = []
    for index in range(20):
        body = "\n".join(
            f"    value = value * {chance.randrange(3, 99)} + {chance.randrange(9999)};"
            f"  /* {_name(chance)} */"
            for _ in range(8)
        )
        functions.append(
            f"static int {_name(chance)}{index}(int value)\n"
            f"{{\n{body}\n    return value % 9973;\n}}\n"
        )
    names = [text.split("(")[0].split()[-1] for text in functions]
    calls = "\n".join(f"    value = {name}(value);" for name in names)
    return (
        "#include <stdio.h>\n#include <stdlib.h>\n"
        + "\n".join(functions)
        + f"int module{number}(int value)\n{{\n{calls}\n    return value;\n}}\n"
    )


def _python(chance: random.Random) -> str:
    parts = [f'"""The {_name(chance)} of a {_name(chance)}."""\n']
    for index in range(chance.randrange(3, 18)):
        names = [_name(chance) for _ in range(4)]
        parts.append(
            f"\ndef {names[0]}_{names[1]}_{index}("
            f"{names[2]}, {names[3]}_limit={chance.randrange(999)}):\n"
            f'    """Return the {_name(chance)} of a {names[2]}."""\n'
            f"    found = [{names[2]} * {chance.randrange(9)} for _ in range({names[3]}_limit)]\n"
            f"    return {{'{_name(chance)}': found, "
            f"'{_name(chance)}': {chance.randrange(9999)}}}\n"
        )
    return "".join(parts)


def _script(chance: random.Random) -> str:
    lines = [f"// {_name(chance)} {_name(chance)}"]
    for index in range(chance.randrange(4, 30)):
        first, second, third = (_name(chance) for _ in range(3))
        lines.append(
            f"export const {first}{index} = ({second}) => "
            f"({{ {third}: {second} + {chance.randrange(9999)} }});"
        )
    return "\n".join(lines) + "\n"
