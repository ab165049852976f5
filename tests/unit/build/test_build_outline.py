"""What a Dockerfile's targets are and take."""

from __future__ import annotations

from layerstore.build.dockerfile.parser import parse_dockerfile
from layerstore.build.ignore import IgnoreRules
from layerstore.build.lint.meaning import Surroundings
from layerstore.build.outline import Outline, outline, targets
from layerstore.build.platforms import Platform

AMD64 = Platform("linux", "amd64")


def outlined(text: str, target: str, **build_args: str) -> Outline:
    tree = parse_dockerfile(text.encode())
    stage = tree.stage_named(target)
    assert stage is not None
    around = Surroundings(build_args, AMD64, AMD64, lambda _: None, IgnoreRules())
    return outline(tree, text.split("\n"), around, stage)


def test_targets_are_stages_with_their_comments() -> None:
    text = (
        "\n# build defines stage for compiling the binary\nFROM alpine AS build\nRUN true\n\n"
        "# not about this one\nFROM busybox as second\nFROM alpine\n\n"
        "# binary returns the compiled binary\n# of this project\nFROM second AS binary\n"
    )
    found = targets(parse_dockerfile(text.encode()), text.split("\n"))
    assert [(each.name, each.description, each.is_default) for each in found] == [
        ("build", "defines stage for compiling the binary", False),
        ("second", "", False),
        ("", "", False),
        ("binary", "returns the compiled binary", True),
    ]


def test_arguments_are_those_that_the_target_uses() -> None:
    text = """ARG inherited=box
ARG inherited2=box2
ARG unused=abc${inherited2}
# sfx is a suffix
ARG sfx="usy${inherited}"

FROM b${sfx} AS first
# this is not assigned to anything
ARG FOO=123
# BAR is a number
ARG BAR=456
RUN true

FROM alpine${unused} AS second
ARG BAZ
RUN true

FROM scratch AS third
ARG ABC=a
ARG inherited

# target defines build target
FROM third AS target
COPY --from=first /etc/passwd /

FROM second
"""
    found = outlined(text, "target", BAR="678")
    assert (found.target.name, found.target.description) == ("target", "defines build target")
    assert [
        (each.name, each.value, each.description, each.span.line) for each in found.arguments
    ] == [
        ("inherited", "box", "", 1),
        ("sfx", "usybox", "is a suffix", 5),
        ("FOO", "123", "", 9),
        ("BAR", "678", "is a number", 11),
        ("ABC", "a", "", 19),
    ]
    assert [(each.name, each.value) for each in outlined(text, "second").arguments] == [
        ("inherited2", "box2"),
        ("unused", "abcbox2"),
        ("BAZ", None),
    ]


def test_secrets_agents_and_caches_are_those_of_the_stages_needed() -> None:
    text = """FROM busybox AS first
RUN --mount=type=secret,target=/etc/passwd,required=true --mount=type=ssh true
FROM alpine AS second
RUN --mount=type=secret,id=unused --mount=type=ssh,id=ssh2 true
FROM scratch AS third
ARG BAR
RUN --mount=type=secret,id=second${BAR} --mount=type=cache,target=/c true
FROM third AS target
RUN --mount=from=first,target=/m --mount=type=ssh,id=ssh3,required true
FROM second
"""
    found = outlined(text, "target", BAR="678")
    assert [(each.kind, each.name, each.is_required, each.span.line) for each in found.needs] == [
        ("secret", "passwd", True, 2),
        ("ssh", "default", False, 2),
        ("secret", "second678", False, 7),
        ("cache", "/c", False, 7),
        ("ssh", "ssh3", True, 9),
    ]
