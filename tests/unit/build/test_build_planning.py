"""Plans: the graph of a build and what is known of its steps, with nothing run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from layerstore.build.api import plan_build
from layerstore.build.context import Context
from layerstore.build.dockerfile.limits import MAX_STAGES
from layerstore.build.errors import BuildStepError
from layerstore.build.request import BuildRequest
from layerstore.cli.build.graph import DEPTH_MAX, _to_dot, _to_json, _to_text
from tests.support.build import add_image, builder  # noqa: F401

if TYPE_CHECKING:
    from layerstore.build.planning import PlannedVertex
    from tests.support.build import Builder

STAGES = """\
FROM scratch AS one
COPY a /a
WORKDIR /w
FROM scratch
COPY --from=one /a /b
COPY --link a /linked
WORKDIR /x
"""


def plan(builder: Builder, dockerfile: str, **options: object) -> list[PlannedVertex]:  # noqa: F811
    request = BuildRequest(
        context=builder.context,
        dockerfile=builder.directory / "Dockerfile",
        dockerfile_text=dockerfile.encode(),
        **options,  # type: ignore[arg-type]
    )
    return plan_build(builder.store, request)


def states(found: list[PlannedVertex]) -> dict[str, str]:
    return {each.vertex.label.partition("] ")[2]: each.state.value for each in found if each.number}


def test_what_is_cached_and_what_is_not(builder: Builder) -> None:  # noqa: F811
    builder.write({"a": "A"})
    assert states(plan(builder, STAGES)) == {
        "COPY a /a": "runs",
        "WORKDIR /w": "unknown",
        "COPY --from=one /a /b": "unknown",
        "COPY --link a /linked": "runs",  # whatever it comes to lie over
        "WORKDIR /x": "unknown",
    }
    builder.build(STAGES)
    assert set(states(plan(builder, STAGES)).values()) == {"cached"}
    assert set(states(plan(builder, STAGES, no_cache=True)).values()) == {"runs", "unknown"}
    found = states(plan(builder, STAGES, no_cache_stages=["one"]))
    assert [name for name, state in found.items() if state == "runs"] == ["COPY a /a"]
    edited = STAGES.replace("/x", "/y")
    assert [name for name, state in states(plan(builder, edited)).items() if state != "cached"] == [
        "WORKDIR /y"
    ]
    builder.write({"a": "AA"})
    assert states(plan(builder, STAGES))["COPY a /a"] == "runs"


def test_the_steps_have_the_numbers_of_the_build(builder: Builder) -> None:  # noqa: F811
    builder.write({"a": "A"})
    numbers = {each.vertex.label: each.number for each in plan(builder, STAGES) if each.number}
    seen = {}
    builder.ui.__class__.started, before = (  # type: ignore[method-assign]
        lambda _self, number, label: seen.update({label: number}),
        builder.ui.__class__.started,
    )
    try:
        builder.build(STAGES)
    finally:
        builder.ui.__class__.started = before  # type: ignore[method-assign]
    assert numbers == seen


def test_nothing_is_read_that_cannot_matter_and_nothing_written(
    builder: Builder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    builder.write({"a": "A"})
    listed: list[bytes] = []
    tree = Context.tree
    monkeypatch.setattr(Context, "tree", lambda self: listed.append(b"") or tree(self))  # type: ignore[func-returns-value]
    before = sorted(os.walk(builder.store.root))
    plan(builder, "FROM scratch\nWORKDIR /w\nCOPY a /a\n")
    assert listed == []
    plan(builder, STAGES)
    assert listed == [b""]
    assert sorted(os.walk(builder.store.root)) == before


def test_a_file_that_is_not_there_is_told(builder: Builder) -> None:  # noqa: F811
    with pytest.raises(BuildStepError, match="absent does not exist"):
        plan(builder, "FROM scratch\nCOPY absent /\n")


def test_servers_are_not_asked(builder: Builder) -> None:  # noqa: F811
    found = plan(builder, "FROM scratch\nADD http://127.0.0.1:1/x /x\n")
    assert sorted(states(found).values()) == ["fetches", "unknown"]


def test_text(builder: Builder) -> None:  # noqa: F811
    builder.write({"a": "A"})
    add_image(builder.store, "os:1", [])
    builder.build("FROM os:1 AS one\nCOPY a /a\n")
    text = "FROM os:1 AS one\nCOPY a /a\nFROM os:1\nWORKDIR /w\nCOPY --from=one /a /b\n"
    lines = list(_to_text(plan(builder, text)))
    assert [line.replace("#1", "#").replace("#2", "#").replace("#3", "#") for line in lines] == [
        "         FROM os:1",
        "runs     # [stage-1 2/3] WORKDIR /w",
        "unknown  # [stage-1 3/3] COPY --from=one /a /b",
        "│    … FROM os:1 (above)",
        "│    cached   # [one 2/2] COPY a /a",
        "",
        "3 steps: 1 cached, 1 to run, 1 unknown until those before them have run",
    ]


def test_stages_nested_deeply_are_cut(builder: Builder) -> None:  # noqa: F811
    count = DEPTH_MAX + 10
    stages = [f"FROM scratch AS s{n}\nCOPY --from=s{n - 1} / /\n" for n in range(1, count)]
    found = plan(builder, "FROM scratch AS s0\nWORKDIR /w\n" + "".join(stages))
    assert max(line.count("│") for line in _to_text(found)) == DEPTH_MAX + 1


@pytest.mark.parametrize(
    "stage",
    [
        "FROM s{before} AS s{number}\n",
        "FROM scratch AS s{number}\nCOPY --from=s{before} / /\n",
        "FROM scratch AS s{number}\nCOPY --from={before} / /\n",
        "FROM scratch AS s{number}\nRUN --mount=from=s{before},target=/m x\n",
    ],
)
def test_as_many_stages_as_a_file_may_have_can_build_on_each_other(
    builder: Builder,  # noqa: F811
    stage: str,
) -> None:
    stages = [stage.format(number=number, before=number - 1) for number in range(1, MAX_STAGES)]
    found = plan(builder, "FROM scratch AS s0\nWORKDIR /w\n" + "".join(stages))
    assert states(found)["WORKDIR /w"] == "runs"


def test_dot_quotes_what_strangers_write(builder: Builder) -> None:  # noqa: F811
    found = plan(builder, 'FROM scratch\nWORKDIR "/a\\b" \n')
    lines = list(_to_dot(found))
    assert lines[0] == "digraph build {"
    assert lines[-1] == "}"
    labels = [line for line in lines if "WORKDIR" in line]
    assert len(labels) == 1
    assert '\\"/a\\\\b\\"' in labels[0]


def test_json_names_inputs_by_their_ids(builder: Builder) -> None:  # noqa: F811
    builder.write({"a": "A"})
    told = _to_json(plan(builder, STAGES))
    vertices = told["vertices"]
    assert isinstance(vertices, list)
    assert told["targets"] == [len(vertices) - 1]
    assert [each["id"] for each in vertices] == list(range(len(vertices)))
    assert all(source < each["id"] for each in vertices for source in each["inputs"])
    (first,) = [each for each in vertices if each["label"] == "[one 2/3] COPY a /a"]
    assert [vertices[source]["kind"] for source in first["inputs"]] == ["base", "context"]
    assert first["line"] == 2
