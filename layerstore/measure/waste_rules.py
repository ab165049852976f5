"""What counts as waste in an image, and what to type instead. Pure.

A *rule* says how bytes are wasted, a *cause* what they are. Rules that give advice only are in no
sum and in no limit: what they find may well be wanted.
"""

from __future__ import annotations

import enum
import re
from typing import Final, NamedTuple


class Rule(enum.StrEnum):
    """How bytes are wasted."""

    DELETED = "deleted"
    OVERWRITTEN = "overwritten"
    ATTRIBUTES = "attributes"
    REPEATED = "repeated"
    CACHES = "caches"
    DUPLICATES = "duplicates"
    BYTECODE = "bytecode"
    BUILD_TOOLS = "build-tools"


ADVICE: Final = frozenset({Rule.DUPLICATES, Rule.BYTECODE, Rule.BUILD_TOOLS})
"""Rules that only advise."""

MEANING: Final = {
    Rule.DELETED: "files that a later step removes: they stay in the layer below",
    Rule.OVERWRITTEN: "files that a later step writes anew: both stand in a layer",
    Rule.ATTRIBUTES: "files whole once more because a later step changed mode, owner or xattrs",
    Rule.REPEATED: "files whole once more with the same content and rights",
    Rule.CACHES: "caches, logs and temporary files that are left in the image",
    Rule.DUPLICATES: "files with the same content at several paths",
    Rule.BYTECODE: "compiled Python files beside their sources",
    Rule.BUILD_TOOLS: "compilers and headers",
}

ANY: Final = "files"
"""The cause of what has no particular one."""


class Cause(NamedTuple):
    """A kind of files by which people know them.

    Attributes:
        name: One word.
        pattern: Of paths without a leading slash.
        fix: What to type in the step that makes them.
    """

    name: str
    pattern: bytes
    fix: str


_HOME = rb"(?:root|home/[^/]+)"
_MOUNT = "RUN --mount=type=cache,target="
CAUSES: Final = (
    Cause(
        "apt-lists",
        rb"var/lib/apt/lists/",
        f"{_MOUNT}/var/lib/apt/lists,sharing=locked ..., "
        "or && rm -rf /var/lib/apt/lists/* at the end of the same RUN",
    ),
    Cause(
        "apt-cache",
        rb"var/cache/apt/",
        f"{_MOUNT}/var/cache/apt,sharing=locked ..., or && apt-get clean in the same RUN",
    ),
    Cause("apk-cache", rb"(?:var/cache/apk|etc/apk/cache)/", "apk add --no-cache ..."),
    Cause(
        "dnf-cache",
        rb"var/cache/(?:dnf|yum|libdnf5)/",
        f"{_MOUNT}/var/cache/dnf ..., or && dnf clean all in the same RUN",
    ),
    Cause(
        "pip-cache",
        _HOME + rb"/\.cache/pip/",
        f"{_MOUNT}/root/.cache/pip pip install ..., or pip install --no-cache-dir",
    ),
    Cause(
        "npm-cache",
        _HOME + rb"/\.npm/",
        f"{_MOUNT}/root/.npm npm ci, or && npm cache clean --force in the same RUN",
    ),
    Cause(
        "yarn-cache",
        rb"(?:usr/local/share/\.cache|" + _HOME + rb"/\.cache)/yarn/",
        f"{_MOUNT}/usr/local/share/.cache/yarn yarn install",
    ),
    Cause(
        "go-cache",
        rb"(?:" + _HOME + rb"/(?:\.cache/go-build|go/pkg/mod/cache)|go/pkg/mod/cache)/",
        f"{_MOUNT}/root/.cache/go-build --mount=type=cache,target=/go/pkg/mod go build ...",
    ),
    Cause(
        "cargo-cache",
        rb"(?:usr/local/cargo|" + _HOME + rb"/\.cargo)/(?:registry|git)/",
        f"{_MOUNT}/usr/local/cargo/registry cargo build ...",
    ),
    Cause(
        "java-cache",
        _HOME + rb"/(?:\.m2/repository|\.gradle/caches)/",
        f"{_MOUNT}/root/.m2 mvn ..., and COPY --from only the result",
    ),
    Cause(
        "composer-cache",
        _HOME + rb"/(?:\.composer|\.cache/composer)/",
        f"{_MOUNT}/root/.cache/composer composer install",
    ),
    Cause("user-cache", _HOME + rb"/\.cache/", f"{_MOUNT}/root/.cache ..."),
    Cause(
        "logs",
        rb"var/log/",
        "&& rm -rf /var/log/apt /var/log/dpkg.log at the end of the same RUN",
    ),
    Cause("temporary", rb"(?:var/)?tmp/", "RUN --mount=type=tmpfs,target=/tmp ..."),
    Cause(
        "backups",
        rb"(?:var/(?:cache/debconf|lib/dpkg)/[^/]+-old|etc/(?:passwd|group|shadow|gshadow)-"
        rb"|var/backups/.*)\Z",
        "&& rm -f /var/lib/dpkg/*-old /var/cache/debconf/*-old in the same RUN",
    ),
    Cause(
        "system-cache",
        rb"var/cache/(?:ldconfig|man|fontconfig)/",
        "&& rm -rf /var/cache/ldconfig /var/cache/man in the same RUN",
    ),
    Cause("version-control", rb"(?:.*/)?\.git/", "a line .git in .dockerignore"),
)
_BY_NAME: Final = {cause.name: cause for cause in CAUSES}
_PATTERN: Final = re.compile(
    b"|".join(b"(?P<c%d>%s)" % (number, cause.pattern) for number, cause in enumerate(CAUSES)),
    re.DOTALL,
)

_TOOLS: Final = re.compile(
    r"(?:(?:gcc|g\+\+|cpp|clang|llvm)(?:-[0-9.]+)?(?:-base)?|build-essential|binutils(?:-.+)?"
    r"|make|cmake(?:-data)?|ninja-build|meson|autoconf|automake|libtool|bison|flex|dpkg-dev"
    r"|rustc|cargo|golang(?:-.+)?|.+-dev)\Z"
)
_NOT_TOOLS: Final = re.compile(r"gcc-[0-9.]+-base\Z")


def cause_of(path: bytes) -> str | None:
    """Return the cause that a path by itself tells; None for files that may be wanted."""
    match = _PATTERN.match(path)
    if match is None or match.lastgroup is None:
        return None
    return CAUSES[int(match.lastgroup[1:])].name


def is_build_tool(package: str) -> bool:
    """Return whether a package of a distribution serves to build others.

    Runtime libraries of compilers, which have the compiler's name in theirs, do not.
    """
    return bool(_TOOLS.match(package)) and not _NOT_TOOLS.match(package)


_BASE: Final = re.compile(
    r"layerstore (?:import|bootstrap) |# debian\.sh |ADD file:[0-9a-f]{64} in / ?"
)
"""A root file system as it was imported, or as the official images begin: there is no line to edit.

Source: docker's and debuerreotype's words in histories (behaviour).
"""

_COPIES: Final = ("COPY", "ADD")


def fix_of(rule: Rule, cause: str, step: str, by: str = "") -> str:
    """Return what to type instead.

    Args:
        rule: That found it.
        cause: What the files are.
        step: The instruction whose layer has the bytes, as Dockerfiles have it.
        by: The one that makes them needless; for whole copies the one that had the content before.
    """
    if _BASE.match(step) is not None:
        return _fix_in_base(rule, cause)
    if cause in _BY_NAME:
        return _BY_NAME[cause].fix
    if step.startswith(_COPIES):
        return _FIX_OF_COPY.get((rule, "--from=" in step), _FIX[rule])
    if rule is Rule.ATTRIBUTES and by.startswith(_COPIES):
        return "COPY --chown=USER --chmod=MODE ... instead of a RUN chown or chmod afterwards"
    return _FIX[rule]


def _fix_in_base(rule: Rule, cause: str) -> str:
    if cause in _BY_NAME:
        return f"in what makes the base: {_BY_NAME[cause].fix}"
    if rule in (Rule.DELETED, Rule.OVERWRITTEN):
        return "nothing later frees what a base has: a smaller base, or build --squash-all"
    if rule is Rule.DUPLICATES:
        return "in what makes the base: links instead of copies"
    return _FIX[rule]


_FIX: Final = {
    Rule.DELETED: "rm it in the RUN that makes it, or make it in another stage: COPY --from=STAGE",
    Rule.OVERWRITTEN: "write it in one step: join the RUNs with &&, or put the final file first",
    Rule.ATTRIBUTES: "chmod and chown in the RUN that makes the files",
    Rule.REPEATED: "join the RUNs with &&, or leave it alone: "
    "a RUN that writes, touches or links a file has it whole once more",
    Rule.CACHES: "rm it in the same RUN",
    Rule.DUPLICATES: "ln -s (or ln in the same RUN) instead of cp; COPY once",
    Rule.BYTECODE: "PYTHONDONTWRITEBYTECODE=1 or pip install --no-compile, for slower first starts",
    Rule.BUILD_TOOLS: "build in a stage of its own and COPY --from=STAGE the result, "
    "or apt-get purge --auto-remove them in the same RUN",
}

_NOT_COPIED: Final = (
    "leave it out by .dockerignore, or use it from the context without a copy: "
    "RUN --mount=type=bind,source=...,target=..."
)
_COPIED_ONCE: Final = "copy it once, with the --chown and --chmod that it should have"
_FIX_OF_COPY: Final = {
    (Rule.DELETED, False): _NOT_COPIED,
    (Rule.DELETED, True): "COPY --from=STAGE only what is wanted, or rm it in that stage",
    **{
        (rule, staged): _COPIED_ONCE
        for rule in (Rule.ATTRIBUTES, Rule.REPEATED)
        for staged in (False, True)
    },
}
"""By rule, and whether another stage or image is copied from."""
