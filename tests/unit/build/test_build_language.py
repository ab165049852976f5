"""Corners of the language in which BuildKit's own tests say what is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.parser import parse_dockerfile
from layerstore.build.lower import lower
from layerstore.build.lower_options import LowerOptions
from layerstore.build.platforms import Platform
from layerstore.errors import LimitExceededError
from tests.support.build import builder  # noqa: F401

if TYPE_CHECKING:
    from tests.support.build import Builder


@pytest.mark.parametrize("dest", ["$EMPTY", "''", "$UNSET"])
def test_an_empty_destination_is_the_working_directory(
    builder: Builder,  # noqa: F811
    dest: str,
) -> None:
    builder.write({"a": b"A"})
    image = builder.build(f"FROM scratch\nENV EMPTY=\nWORKDIR /w\nCOPY a {dest}\n")
    assert builder.files(image)["w/a"].content == b"A"


@pytest.mark.parametrize(
    ("last", "target", "wanted"), [("", None, "default"), (" AS z", None, "z"), ("", "x", "x")]
)
def test_the_target_stage_has_a_name(
    builder: Builder,  # noqa: F811
    last: str,
    target: str | None,
    wanted: str,
) -> None:
    text = f"FROM scratch AS x\nARG TARGETSTAGE\nLABEL s=$TARGETSTAGE\nFROM x{last}\n"
    assert builder.config(builder.build(text, target=target)).config.labels == {"s": wanted}


def test_triggers_of_bases_can_be_passed_over(builder: Builder) -> None:  # noqa: F811
    text = "FROM scratch AS base\nONBUILD LABEL a=b\nFROM base\n"
    assert builder.config(builder.build(text)).config.labels == {"a": "b"}
    skipped = builder.build(text, build_args={"BUILDKIT_DISABLE_ONBUILD": "1"})
    assert builder.config(skipped).config.labels == {}
    assert builder.config(skipped).config.on_build == ()


def test_triggers_run_once_and_not_in_stages_of_stages(builder: Builder) -> None:  # noqa: F811
    text = (
        "FROM scratch AS base\nONBUILD COPY --from=src /a /t/\nFROM scratch AS src\nCOPY a /\n"
        "FROM base AS mid\nFROM mid\n"
    )
    builder.write({"a": b"A"})
    history = builder.history(builder.build(text))
    assert history == [("COPY /a /t/ # buildkit", True)]


@pytest.mark.parametrize("name", ["Dockerfile", "Containerfile", "dockerfile"])
def test_the_file_is_found_under_the_usual_names(builder: Builder, name: str) -> None:  # noqa: F811
    builder.write({name: "FROM scratch\nLABEL a=b\n", f"{name}.dockerignore": "x\n"})
    assert builder.config(builder.build(None)).config.labels == {"a": "b"}


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("RUN --network=hots true", "did you mean host?"),
        ("RUN --security=insecur true", "did you mean insecure?"),
        ("HEALTHCHECK CMDD true", "did you mean CMD?"),
        ("EXPOSE 80/tpc", "did you mean tcp?"),
        ("EXPOSE 80/x", "write tcp, udp or sctp"),
    ],
)
def test_the_nearest_known_word_is_named(line: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_dockerfile(f"FROM scratch\n{line}\n".encode())
    assert caught.value.hint == hint


def test_the_nearest_stage_is_named(builder: Builder) -> None:  # noqa: F811
    for text, target in (
        ("FROM scratch AS builder\nFROM scratch\nCOPY --from=bilder /a /\n", None),
        ("FROM scratch AS builder\nFROM buidler\n", None),
        ("FROM scratch AS builder\n", "Bulder"),
    ):
        with pytest.raises(SpecError) as caught:
            builder.build(text, target=target)
        assert caught.value.hint == "did you mean builder?"


@pytest.mark.parametrize(
    ("word", "meant"), [("escap", "escape"), ("chekc", "check"), ("scope", "")]
)
def test_a_comment_like_a_directive_is_remarked_on(word: str, meant: str) -> None:
    tree = parse_dockerfile(f"# {word}=`\nFROM scratch\n".encode())
    assert tree.escape == "\\"
    assert [str(notice) for notice in tree.notices] == (
        [f"Dockerfile:1:1: this is a comment: there is no directive {word}; did you mean {meant}?"]
        if meant
        else []
    )


def test_several_files_for_one_name_are_told(builder: Builder) -> None:  # noqa: F811
    builder.write({"a": b"A", "b": b"B", "d/x": b"X"})
    files = builder.files(builder.build("FROM scratch\nCOPY a b /one\nCOPY a d /dir/\n"))
    assert files["one"].content == b"B"
    (told,) = builder.ui.messages
    assert told.endswith(":2:1: /one is one file, only the last source stays: end it with /")
    builder.build("FROM scratch\nCOPY d /dir\nCOPY a b /dir\nCOPY d d /dir\n")
    assert builder.ui.messages == []


def test_arguments_of_buildkit_are_heeded_or_told(builder: Builder) -> None:  # noqa: F811
    given = {"BUILDKIT_SYNTAX": "docker/dockerfile:1.20", "BUILDKIT_DOCKERFILE_CHECK": "skip=all"}
    builder.build("FROM scratch\n", build_args=given)
    assert builder.ui.notices == []
    builder.build("FROM scratch\n", build_args={"BUILDKIT_INLINE_CACHE": "1"})
    assert "BUILDKIT_INLINE_CACHE is declared by no ARG" in builder.ui.notices[0]
    with pytest.raises(SpecError, match="BUILDKIT_SYNTAX:1:1: the frontend 'x/y' is not available"):
        builder.build("FROM scratch\n", build_args={"BUILDKIT_SYNTAX": "x/y"})


@pytest.mark.parametrize(
    "flag", ["vendor.com/gpu=all", "name=vendor.com/gpu=all", "vendor.com/gpu=all,required=false"]
)
def test_a_device_that_is_not_required_is_left_out(builder: Builder, flag: str) -> None:  # noqa: F811
    request = f"FROM scratch AS x\nRUN --device={flag} ['true']\nFROM scratch\nLABEL a=b\n"
    builder.build(request)
    assert builder.ui.notices == []  # of a stage that nobody needs
    parsed = parse_dockerfile(request.encode())
    options = LowerOptions({}, {}, "x", network=True, platform=Platform("linux", "amd64"))
    (notice,) = lower(parsed, options, NoImages()).notices
    assert str(notice) == (
        "Dockerfile:2:5: the device 'vendor.com/gpu=all' (of the Container Device Interface) is "
        "left out: steps get none here"
    )


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("vendor.com/gpu=all,required", "requires the device 'vendor.com/gpu=all'"),
        ("name=x,required=true", "requires the device 'x'"),
        ("x,y", "'y' is no field of a device"),
        ("x,required=maybe", "is no field of a device"),
        ("", "has no name|needs a value"),
    ],
)
def test_a_device_that_cannot_be_had_or_read(builder: Builder, flag: str, message: str) -> None:  # noqa: F811
    with pytest.raises(SpecError, match=message) as caught:
        builder.build(f"FROM scratch\nRUN --device={flag} ['true']\n")
    assert caught.value.span.line == 2


class NoImages:
    """A store without images."""

    def find(self, reference: str, _platform: object = None) -> None:
        """Return nothing."""

    def pull(self, reference: str, platform: object) -> None:
        """Bring nothing."""


@pytest.mark.parametrize(
    "lines",
    [
        ["LABEL " + " ".join(f"k{i}=$big" for i in range(400))],
        [f"LABEL k{i}=$big" for i in range(400)],
        ["COPY " + "$big " * 400 + "/"],
        [f"RUN echo {i}" for i in range(400)],
        ["EXPOSE 1-65535"] * 200,
    ],
    ids=["one label", "labels", "copy", "run", "expose"],
)
def test_what_variables_put_in_is_limited_in_all(lines: list[str]) -> None:
    """They once took gigabytes of memory of a file of 1 MB."""
    text = "\n".join(["FROM scratch", "ARG big=" + "y" * 200_000, *lines])
    options = LowerOptions({}, {}, None, network=True, platform=Platform("linux", "amd64"))
    with pytest.raises(LimitExceededError, match="variables and ranges of the file expand"):
        lower(parse_dockerfile(text.encode()), options, NoImages())


@pytest.mark.parametrize("words", [["80", "22", "80", "443"], [f"{i}" for i in range(300, 1, -1)]])
def test_ports_and_volumes_are_sorted_however_they_come(
    builder: Builder,  # noqa: F811
    words: list[str],
) -> None:
    lines = [f"EXPOSE {word}\nVOLUME /v{word}\n" for word in words]
    joined = f"EXPOSE {' '.join(words)}\nVOLUME {' '.join(f'/v{word}' for word in words)}\n"
    for text in ("".join(lines), joined, "".join(lines) + joined):
        config = builder.config(builder.build("FROM scratch\n" + text)).config
        assert list(config.exposed_ports) == sorted({f"{word}/tcp" for word in words})
        assert list(config.volumes) == sorted({f"/v{word}" for word in words})


def test_an_environment_keeps_its_order(builder: Builder) -> None:  # noqa: F811
    text = "FROM scratch AS base\nENV a=1 b=2 a=3\nFROM base\nENV c=4 b=5\nENV a=6\n"
    config = builder.config(builder.build(text)).config
    assert [each for each in config.env if not each.startswith("PATH=")] == ["a=6", "b=5", "c=4"]
