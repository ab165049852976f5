"""What instructions do to the image config and its history, in BuildKit's words."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.go_text import duration, quoted
from layerstore.formats.oci_config import Healthcheck
from layerstore.store.names.usage import step_uses
from tests.support.build import PATH, add_image, builder  # noqa: F401

if TYPE_CHECKING:
    from tests.support.build import Builder


HEALTHCHECK_TEXT = (
    "HEALTHCHECK {Test:[CMD-SHELL check me] Interval:1m30s Timeout:0s "
    "StartPeriod:0s StartInterval:0s Retries:2}"
)


def test_an_image_from_scratch_has_docker_s_defaults(builder: Builder) -> None:  # noqa: F811
    result = builder.build("FROM scratch\n")
    config = builder.config(result).config
    assert (config.env, config.working_dir, config.cmd) == ((PATH,), "/", None)
    assert builder.history(result) == []


def test_a_workdir_that_expands_to_nothing_stays_where_it_was(builder: Builder) -> None:  # noqa: F811
    result = builder.build("FROM scratch\nWORKDIR /a\nWORKDIR $NOPE\nWORKDIR b\n")
    assert builder.config(result).config.working_dir == "/a/b"
    assert any("WORKDIR $NOPE expands to nothing" in each for each in builder.ui.notices)


def test_every_instruction_that_only_changes_the_config(builder: Builder) -> None:  # noqa: F811
    result = builder.build(
        """\
FROM scratch
MAINTAINER me <me@example.test>
ENV A=1 B="two words" A=3
ENV C $A$B
LABEL x=y "a b"='c d'
EXPOSE 80 443/tcp 53/udp
VOLUME /v [not-json
VOLUME ["/w"]
STOPSIGNAL SIGINT
SHELL ["/bin/ash", "-ec"]
CMD echo "hi" $HOME
ENTRYPOINT ["/entry", "x"]
HEALTHCHECK --interval=90s --retries=2 CMD check me
ONBUILD COPY a b
USER 5:6
"""
    )
    image = builder.config(result)
    config = image.config
    assert image.author == "me <me@example.test>"
    assert config.env == (PATH, "A=3", "B=two words", "C=3two words")
    assert config.labels == {"x": "y", "a b": "c d"}
    assert config.exposed_ports == ("443/tcp", "53/udp", "80/tcp")
    assert config.volumes == ("/v", "/w", "[not-json")
    assert (config.stop_signal, config.shell) == ("SIGINT", ("/bin/ash", "-ec"))
    assert config.cmd == ("/bin/ash", "-ec", 'echo "hi" $HOME')
    assert config.entrypoint == ("/entry", "x")
    assert config.healthcheck == Healthcheck(
        test=("CMD-SHELL", "check me"), interval_ns=90 * 10**9, retries=2
    )
    assert (config.on_build, config.user) == (("COPY a b",), "5:6")
    assert [text for text, _ in builder.history(result)] == [
        "MAINTAINER me <me@example.test>",
        "ENV A=1 B=two words A=3",
        "ENV C=3two words",
        "LABEL x=y a b=c d",
        "EXPOSE [443/tcp 53/udp 80/tcp]",
        "VOLUME [/v [not-json]",
        "VOLUME [/w]",
        "STOPSIGNAL SIGINT",
        "SHELL [/bin/ash -ec]",
        'CMD ["/bin/ash" "-ec" "echo \\"hi\\" $HOME"]',
        'ENTRYPOINT ["/entry" "x"]',
        HEALTHCHECK_TEXT,
        "USER 5:6",
    ]


def test_entrypoint_clears_only_an_inherited_cmd(builder: Builder) -> None:  # noqa: F811
    base = 'FROM scratch AS base\nCMD ["a"]\n'
    inherited = builder.build(base + 'FROM base\nENTRYPOINT ["e"]\n')
    assert builder.config(inherited).config.cmd is None
    own = builder.build(base + 'FROM base\nCMD ["b"]\nENTRYPOINT ["e"]\n')
    assert builder.config(own).config.cmd == ("b",)


def test_args_have_scopes(builder: Builder) -> None:  # noqa: F811
    dockerfile = """\
ARG GLOBAL=g
ARG DERIVED=$GLOBAL-d
FROM scratch AS one
LABEL before="$GLOBAL"
ARG GLOBAL
ARG DERIVED
ARG OWN=o
ARG UNSET
LABEL seen="$GLOBAL $DERIVED $OWN $UNSET"
FROM one
LABEL child="$OWN"
FROM scratch
LABEL other="$OWN" platform="$TARGETARCH"
ARG TARGETARCH
LABEL arch="$TARGETARCH"
"""
    plain = builder.config(builder.build(dockerfile, target="one")).config.labels
    assert plain == {"before": "", "seen": "g g-d o "}
    given = builder.build(dockerfile, target="one", build_args={"GLOBAL": "G", "UNSET": "U"})
    assert builder.config(given).config.labels == {"before": "", "seen": "G G-d o U"}
    child = builder.build(dockerfile.partition("FROM scratch\nLABEL other")[0])
    assert builder.config(child).config.labels["child"] == "o"
    last = builder.config(builder.build(dockerfile))
    assert last.config.labels["other"] == ""
    assert last.config.labels["arch"] == last.architecture


def test_base_images_and_stages_can_be_named_by_args(builder: Builder) -> None:  # noqa: F811
    add_image(builder.store, "known:1", [], labels={"from": "known"})
    result = builder.build("ARG B=other\nFROM ${B}:1\n", build_args={"B": "known"})
    assert builder.config(result).config.labels == {"from": "known"}
    with pytest.raises(SpecError, match="Dockerfile:2:1: there is no image 'other:1'"):
        builder.build("ARG B=other\nFROM ${B}:1\n")


def test_an_unused_build_argument_is_worth_a_warning(builder: Builder) -> None:  # noqa: F811
    builder.build("FROM scratch\nARG A\n", build_args={"A": "1", "NOPE": "1", "HTTP_PROXY": "p"})
    assert len(builder.ui.notices) == 1
    assert "NOPE" in builder.ui.notices[0]


def test_onbuild_triggers_run_once_in_the_child(builder: Builder) -> None:  # noqa: F811
    builder.write({"a": "A"})
    first = builder.build("FROM scratch\nONBUILD COPY a /a\nONBUILD ENV X=1\n", tags=["parent"])
    assert builder.config(first).config.on_build == ("COPY a /a", "ENV X=1")
    child = builder.build("FROM parent\nLABEL l=$X\n", tags=["child"])
    config = builder.config(child).config
    assert (config.on_build, config.labels) == ((), {"l": "1"})
    assert builder.files(child)["a"].content == b"A"
    grandchild = builder.build("FROM child\n")
    assert builder.history(grandchild) == builder.history(child)


def test_onbuild_of_a_stage_counts_too(builder: Builder) -> None:  # noqa: F811
    result = builder.build("FROM scratch AS p\nONBUILD LABEL a=b\nFROM p\n")
    assert builder.config(result).config.labels == {"a": "b"}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("WORKDIR /a", "/a"),
        ("WORKDIR /a/", "/a/"),
        ("WORKDIR a", "/a"),
        ("WORKDIR /a\nWORKDIR b", "/a/b"),
        ("WORKDIR /a/b\nWORKDIR ../c", "/a/c"),
        ("WORKDIR /a//b/./c", "/a/b/c"),
        ("WORKDIR /../..", "/"),
    ],
)
def test_workdir_is_made_absolute(builder: Builder, lines: str, expected: str) -> None:  # noqa: F811
    result = builder.build(f"FROM scratch\n{lines}\n")
    assert builder.config(result).config.working_dir == expected


def test_workdir_makes_directories_for_the_user(builder: Builder) -> None:  # noqa: F811
    result = builder.build("FROM scratch\nUSER 7:8\nWORKDIR /a/b\nWORKDIR /a\n")
    files = builder.files(result)
    assert (files["a/b"].uid, files["a/b"].gid, files["a/b"].mode) == (7, 8, 0o755)
    assert builder.history(result) == [
        ("USER 7:8", False), ("WORKDIR /a/b", True), ("WORKDIR /a", False),
    ]  # fmt: skip


def test_labels_and_names_from_the_request(builder: Builder) -> None:  # noqa: F811
    result = builder.build("FROM scratch\nLABEL a=1 b=2\n", labels={"b": "3"}, tags=["t", "u:1"])
    assert builder.config(result).config.labels == {"a": "1", "b": "3"}
    assert result.names == ("t:latest", "u:1")
    assert builder.store.resolve("u:1").image_id == result.image_id


def test_metadata_takes_times_from_layers(builder: Builder) -> None:  # noqa: F811
    """So that a rebuild from the cache is the same image, whenever it happens."""
    builder.write({"a": "A"})
    dockerfile = 'FROM scratch\nENV A=1\nCOPY a /a\nCMD ["x"]\n'
    first = builder.build(dockerfile)
    times = {step.created for step in builder.config(first).history}
    assert len(times) == 1
    assert builder.config(first).created in times
    assert builder.build(dockerfile).image_id == first.image_id


def test_steps_of_a_fixed_time_count_as_used_when_they_were_made(builder: Builder) -> None:  # noqa: F811
    """Else rules by age take the store for one that nobody used for years, and keep all."""
    builder.write({"a": "A"})
    began = time.time()
    builder.build("FROM scratch\nCOPY a /a\n", build_args={"SOURCE_DATE_EPOCH": "1600000000"})
    assert {record.created for record in builder.store.cache_records()} == {1600000000.0}
    assert all(used >= began for used in step_uses(builder.store.catalog).values())


@pytest.mark.parametrize(
    ("instruction", "place"),
    [
        ("FROM --platform=linux/s390x known:1", "1:6"),
        ("FROM --platform=what known:1", "1:6"),
        ("FROM scratch\nRUN --mount=type=secret,id=s,target=/proc true", "2:5"),
        ("FROM scratch\nRUN --mount=type=ssh,target=/dev true", "2:5"),
        ("FROM scratch\nRUN --security=insecure true", "2:5"),
        ("FROM scratch\nRUN --mount=type=bind,target=/proc true", "2:5"),
        ("FROM scratch\nRUN --mount=type=tmpfs,target=/ true", "2:5"),
        ("FROM scratch\nRUN --mount=type=tmpfs,target=a/../.. true", "2:5"),
        ("FROM scratch\nRUN --mount=type=cache,target=/c,from=x true", "2:5"),
        ("FROM scratch\nCOPY --from=later a /\nFROM scratch AS later", "2:6"),
    ],
)
def test_what_is_not_there_is_refused(builder: Builder, instruction: str, place: str) -> None:  # noqa: F811
    add_image(builder.store, "known:1", [])
    stages = instruction.count("AS later")
    with pytest.raises(SpecError) as caught:
        builder.build(instruction, target="0" if stages else None)
    assert f"Dockerfile:{place}: " in str(caught.value)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"), (1, "1ns"), (1500, "1.5µs"), (2 * 10**6, "2ms"), (10**9, "1s"),
        (1_500_000_000, "1.5s"), (60 * 10**9, "1m0s"), (3_661_000_000_001, "1h1m1.000000001s"),
    ],
)  # fmt: skip
def test_durations_are_go_s(nanoseconds: int, text: str) -> None:
    assert duration(nanoseconds) == text


def test_quoting_is_go_s() -> None:
    assert quoted('a"b\\\n\t\x01é\u200b\udcff') == '"a\\"b\\\\\\n\\t\\x01é\\u200b\\xff"'
