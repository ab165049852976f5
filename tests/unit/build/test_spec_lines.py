"""Layers of other builders, found again in a Dockerfile by the words of their history."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layerstore.build.dockerfile.parser import parse_dockerfile
from layerstore.build.spec_lines import MAKERS_MAX, match_history
from layerstore.measure.steps import instruction_of

TEXT = b"""\
FROM golang:1 AS builder
WORKDIR /src
RUN --mount=type=cache,target=/root/.cache \\
    go build \\
      ./...
FROM debian:12
ARG VERSION=1
RUN apt-get update
ENV A=b
COPY --chown=1 app.$VERSION conf /srv/
WORKDIR sub
RUN ["make", "install"]
RUN <<EOF
echo one
echo two
EOF
RUN apt-get update
"""
BASE = 'CMD ["bash"]'


def lines(*history: str, text: bytes = TEXT) -> list[int | None]:
    matched = match_history(parse_dockerfile(text), history)
    return [None if each is None else each.span.line for each in matched]


def test_the_words_of_buildkit():
    assert lines(
        "ADD rootfs.tar.xz /",
        "RUN apt-get update",
        "COPY --chown=1 app.7 conf /srv/",
        "WORKDIR /srv/sub",
        "RUN make install",
        "RUN echo one echo two",
        "RUN apt-get update",
    ) == [None, 8, 10, 11, 12, 13, 17]


def test_the_words_of_docker_and_other_shells():
    assert lines(
        "ADD file:0a1b in /",
        "RUN apt-get update",
        "COPY multi:77ff in /srv/",
        "RUN |1 VERSION=2 /bin/bash -o pipefail -c make install",
    ) == [None, 8, 10, 12]


def test_one_that_differs_costs_no_other():
    assert lines("RUN apt-get update", "COPY other /srv/", "RUN make install", "RUN rm /x") == [
        8,
        None,
        12,
        None,
    ]


def test_the_stage_is_the_one_that_explains_most():
    assert lines("WORKDIR /src", "RUN go build ./...") == [2, 3]
    chained = b"FROM a AS one\nRUN x\nFROM one\nRUN y\nFROM other\nRUN z\n"
    assert lines("RUN x", "RUN y", text=chained) == [2, 4]


def test_repeated_instructions_are_told_from_the_end():
    assert lines("RUN x", "RUN x", text=b"FROM a\nRUN x\nRUN x\n") == [2, 3]
    assert lines("RUN x", text=b"FROM a\nRUN x\nRUN x\n") == [3]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "RUN",
        "RUN remake install",
        "RUN true && make install",
        "COPY conf /srv/",
        "COPY file:77ff in /etc/",
        "WORKDIR /",
        BASE,
    ],
)
def test_others_are_not_like_them(line):
    assert lines(line) == [None]


def test_only_the_ends_of_very_long_ones_are_compared():
    count = MAKERS_MAX + 100
    text = b"FROM a\n" + b"".join(b"RUN step %d\n" % number for number in range(count))
    found = lines(*(f"RUN step {number}" for number in range(count)), text=text)
    assert found == [None] * 100 + [number + 2 for number in range(100, count)]


HISTORIES = Path(__file__).parent / "histories"
"""Of images that builders made of the Dockerfiles beside; in histories.json, by whom."""

COMMON = [None, 18, 20]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("docker", [*COMMON, 21, 22, 26, 27, 28, 29, 31, 37]),  # RUN true has no layer
        ("buildkit", [*COMMON, 21, 22, 26, 27, 28, 29, 31, 34, 37]),
        ("buildah-layers", [*COMMON, 26, 27, 28, 29, 31, 34, 37]),
        ("buildah", [None, 22, None]),  # a layer for each stage, called as its last instruction
        ("buildkit-mounts", [None, 3, 6, 7, 8]),
        ("buildah-mounts", [None, 3, 6, 7, 8]),
    ],
)
def test_histories_that_builders_wrote(name, expected):
    found = json.loads((HISTORIES / "histories.json").read_text())[name]
    said = [instruction_of(line) for line in found["history"]]
    assert lines(*said, text=(HISTORIES / found["file"]).read_bytes()) == expected


def test_a_shell_that_a_dockerfile_names_in_full():
    text = b'FROM a\nRUN ["/bin/bash", "-c", "make  install"]\nRUN make install\n'
    said = [instruction_of("RUN /bin/bash -c make install # buildkit")] * 2
    assert lines(*said, text=text) == [2, 3]


def test_a_line_that_nothing_is_like_moves_no_other():
    text = b"FROM a\nWORKDIR $A\nWORKDIR sub\nRUN x\n"
    assert lines("WORKDIR /a/sub", "CMD x", text=text) == [3, None]


@pytest.mark.parametrize("piece", ["/", "/a ", "/a -b ", "-o x "])
def test_what_a_stranger_wrote_is_read_in_a_moment(piece):
    line = "|1 A=b " + piece * 200_000
    assert instruction_of(line) == " ".join(line.split())  # a square of it would take minutes
