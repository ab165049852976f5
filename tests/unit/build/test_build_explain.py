"""Why steps run: what is remembered of a step, and what is said when it is not cached."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore.build import records
from layerstore.build.cache_key import KEY_VERSION
from layerstore.build.cache_value import alias_of, encode_alias
from layerstore.build.explain import FILES_MAX, reasons
from layerstore.build.facts import (
    Facts,
    decode_facts,
    encode_facts,
)
from layerstore.build.labels import place_of, stage_of
from layerstore.build.listing import NAMES_MAX, Listed, changes
from layerstore.build.matching import match_steps
from layerstore.build.records import BuildNote, BuildRecords, StepNote
from layerstore.formats.tree import Kind
from layerstore.store.remembering import RECORDS_MAX
from layerstore.store.store import Store
from tests.support.build import add_image, builder  # noqa: F401

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.build import Builder

COPY = "FROM scratch\nCOPY . /\n"


def why(builder: Builder, dockerfile: str, **options: object) -> list[str]:  # noqa: F811
    builder.build(dockerfile, explain=True, **options)
    return builder.ui.because


def test_the_first_time(builder: Builder) -> None:  # noqa: F811
    builder.write({"a": "A"})
    assert why(builder, COPY) == ["it was never built here"]
    assert why(builder, COPY) == []
    assert builder.ui.cached == ["COPY . /"]


def test_files_are_named_with_what_changed_of_them(builder: Builder) -> None:  # noqa: F811
    builder.write({"a": "A", "b": "B", "dir/c": "C", "old": "", "kind": ""})
    builder.build(COPY)
    builder.write({"a": "AA", "dir/new/x": "", "dir/new/y": ""})
    os.chmod(builder.context / "b", 0o600)
    os.chmod(builder.context / "dir/c", 0o755)
    (builder.context / "old").unlink()
    (builder.context / "kind").unlink()
    (builder.context / "kind").symlink_to("a")
    assert why(builder, COPY) == [
        "a changed: its content",
        "b changed: its mode (644 to 600)",
        "dir/c changed: its mode (644 to 755)",
        "dir/new is new (2 files)",
        "kind changed: from a file to a symlink",
        "old is gone",
    ]
    assert ("file", "dir/c") in builder.ui.reasons


def test_only_so_many_files_are_named(builder: Builder) -> None:  # noqa: F811
    builder.write({"a": ""})
    builder.build(COPY)
    builder.write({f"n{number:02}": "" for number in range(FILES_MAX + 5)})
    assert why(builder, COPY)[-2:] == ["n09 is new", "5 more changes like these"]


def test_directories_of_very_many_files_are_remembered_as_one(builder: Builder) -> None:  # noqa: F811
    many = {f"many/{number}": "" for number in range(NAMES_MAX)}
    builder.write({"few/a": "A", **many})
    builder.build(COPY)
    (record,) = builder.store.cache_records()
    assert len(record.value) < 1000
    builder.write({"many/7": "changed", "few/a": "changed"})
    assert why(builder, COPY) == [
        "few/a changed: its content",
        "many changed: something below it (too many files to remember each)",
    ]


def test_variables_epoch_text_and_options(builder: Builder) -> None:  # noqa: F811
    builder.write({"a": "A", "b": "B"})
    text = "FROM scratch\nARG F=a\nCOPY $F /x\nWORKDIR /w\n"
    builder.build(text)
    assert why(builder, text, build_args={"F": "b"}) == [
        "what is copied changed, though the instruction's text did not",
        "a is gone",
        "b is new",
        "the step before it made another layer",
    ]
    assert why(builder, text, build_args={"F": "b", "SOURCE_DATE_EPOCH": "1"})[0] == (
        "SOURCE_DATE_EPOCH changed (none to 1)"
    )
    edited = text.replace("/x", "/y")
    assert why(builder, edited)[:1] == ["the instruction's text changed"]


def test_bases_and_stages(builder: Builder) -> None:  # noqa: F811
    from tests.support.build import _file

    old = add_image(builder.store, "os:1", [_file(b"etc", b"old")])
    text = "FROM os:1 AS s\nWORKDIR /w\nFROM scratch\nCOPY --from=s /etc /\n"
    builder.build(text)
    new = add_image(builder.store, "os:1", [_file(b"etc", b"new")])
    ids = f"{old.image_id[7:19]} to {new.image_id[7:19]}"
    assert why(builder, text) == [
        f"the image os:1 changed ({ids})",
        "the stage s: /etc changed: its content",
    ]
    add_image(builder.store, "os:2", [_file(b"etc", b"2")])
    assert why(builder, text.replace("os:1", "os:2"))[0] == (
        "it builds on the image os:2, before on the image os:1"
    )


def test_steps_are_found_again_in_an_edited_file(builder: Builder) -> None:  # noqa: F811
    builder.write({"a": "A"})
    builder.build("FROM scratch\nWORKDIR /one\nCOPY a /\nWORKDIR /three\n")
    text = "FROM scratch\nWORKDIR /one\nWORKDIR /new\nCOPY a /\nWORKDIR /3\n"
    assert why(builder, text) == [
        "it was never built here",
        "the step before it made another layer",
        "the instruction's text changed",
        "the step before it made another layer",
    ]


def test_what_was_collected_or_not_to_be_used(builder: Builder) -> None:  # noqa: F811
    builder.write({"a": "A"})
    builder.build(COPY)
    asked = ["the build was asked not to use the cache"]
    assert why(builder, COPY, no_cache=True) == asked
    assert why(builder, COPY, no_cache_stages=["0"]) == asked
    builder.store.cache_drop([record.key for record in builder.store.cache_records()])
    assert why(builder, COPY) == ["it was built before, but gc has taken its record or its layer"]
    builder.store.cache_drop([record.key for record in builder.store.cache_records()])
    builder.write({"a": "AA"})
    assert why(builder, COPY) == ["it was built before, but gc has taken its record or its layer"]


def test_a_step_that_failed(builder: Builder) -> None:  # noqa: F811
    from layerstore.errors import BuildError

    builder.write({"dir/a": "A", "b": "B"})
    text = "FROM scratch\nCOPY b /dir\nCOPY dir /dir\n"
    with pytest.raises(BuildError):
        builder.build(text)
    with pytest.raises(BuildError):
        builder.build(text, explain=True)
    assert builder.ui.because == ["the last build ended before it was done"]


def test_what_no_version_wrote_or_lies_there_damaged_only_explains_less(
    builder: Builder,  # noqa: F811
) -> None:
    builder.write({"a": "A"})
    builder.build(COPY)
    (record,) = builder.store.cache_records()
    with builder.store.begin("test") as session:
        session.cache_put(msgspec.structs.replace(record, value=b""))
    builder.write({"a": "AA"})
    assert why(builder, COPY) == ["something changed that was not remembered of the last build"]
    (folder,) = [builder.store.paths.builds]
    (name,) = os.listdir(folder)
    with open(f"{folder}/{name}", "r+b") as file:
        file.seek(20)
        file.write(b"\xff\xff")
    builder.write({"a": "AAA"})
    assert why(builder, COPY) == ["it was never built here"]


def test_a_cached_build_writes_no_record(builder: Builder) -> None:  # noqa: F811
    builder.write({"a": "A"})
    builder.build(COPY)
    folder = builder.store.paths.builds
    (name,) = os.listdir(folder)
    before = os.stat(f"{folder}/{name}").st_ino
    builder.build(COPY)
    assert os.stat(f"{folder}/{name}").st_ino == before


def test_a_cached_build_of_moved_instructions_moves_them_in_its_record(builder: Builder) -> None:  # noqa: F811
    builder.write({"a": "A"})
    builder.build(COPY)
    ((first,),) = BuildRecords(builder.store.paths).all()
    builder.build("# moved\n" + COPY)
    ((moved,),) = BuildRecords(builder.store.paths).all()
    assert [each.line for each in moved.steps] == [each.line + 1 for each in first.steps]
    unmoved = [msgspec.structs.replace(each, line=each.line - 1) for each in moved.steps]
    assert msgspec.structs.replace(moved, steps=tuple(unmoved)) == first


def test_equal_builds_of_few_and_many_dockerfiles_stay_few(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store", create=True) as store:
        known = BuildRecords(store.paths)
        staging = iter(range(10_000))

        def add(dockerfile: str, number: int) -> None:
            step = StepNote("RUN x", "RUN x", (f"k{number}",), None, 1.0, cached=False)
            note = BuildNote((f"i{number}",), (), "", "/c", dockerfile, 1.0, 1.0, (step,))
            known.add(note, lambda: f"{tmp_path}/store/tmp/{next(staging)}")

        for number in range(records.BUILDS_MAX + 3):
            add("one", number)
        builds = known.of_spec("/c", "one")
        assert [each.images[0] for each in builds] == [f"i{n}" for n in range(10, 2, -1)]
        for number in range(RECORDS_MAX + 2):
            add(f"file {number}", 0)
        assert len(os.listdir(store.paths.builds)) == RECORDS_MAX
        assert len(list(known.all())) == RECORDS_MAX


FACTS = Facts(KEY_VERSION, "run", b"t", {}, {"A": b"1"}, {}, {}, (), (), None)


def test_facts_travel() -> None:
    file = Listed(b"x", int(Kind.FILE), 0o644, 0, 0, b"d")
    folder = Listed(b"d", int(Kind.DIR), 0o755, 0, 0, b"e", (file,))
    counted = msgspec.structs.replace(folder, below=7)
    facts = msgspec.structs.replace(FACTS, listings=((1, "", (folder, counted)),))
    assert decode_facts(encode_facts(facts)) == facts
    assert decode_facts(encode_alias("step:1")) is None
    assert alias_of(encode_alias("step:1")) == "step:1"
    assert alias_of(encode_facts(facts)) is None


def test_facts_of_versions_that_kept_no_time_are_read() -> None:
    import zstandard

    facts = msgspec.structs.replace(FACTS, ran=1.5)
    assert decode_facts(encode_facts(facts)) == facts
    fields = msgspec.msgpack.decode(zstandard.decompress(encode_facts(facts)[2:]))
    assert fields.pop() == 1.5
    value = b"\1\0" + zstandard.compress(msgspec.msgpack.encode(fields))
    assert decode_facts(value) == FACTS


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"\1\0" + tail))
def test_facts_of_strangers_are_none(value: bytes) -> None:
    assert decode_facts(value) is None
    assert alias_of(value) is None or value[:2] == b"\1\1"


def test_facts_that_unpack_to_too_much_are_none() -> None:
    import zstandard

    assert decode_facts(b"\1\0" + zstandard.compress(b"\0" * (10 << 20))) is None


def test_a_change_that_nothing_shows_is_said_to_be_one() -> None:
    assert [each.kind for each in reasons(FACTS, FACTS)] == ["unknown"]
    other = msgspec.structs.replace(FACTS, rules="older", variables={"B": b"1"})
    assert [each.text for each in reasons(other, FACTS)] == [
        "this version of layerstore makes its keys in another way",
        "the variable A is new",
        "the variable B is gone",
    ]


names = st.sampled_from([b"a", b"b", b"c"])
leaves = st.builds(
    Listed, names, st.sampled_from([2, 3]), st.sampled_from([0o644, 0o600]), st.just(0),
    st.sampled_from([0, 5]), st.sampled_from([b"1", b"2"]),
)  # fmt: skip


@given(
    st.lists(leaves, unique_by=lambda each: each.name),
    st.lists(leaves, unique_by=lambda each: each.name),
)
def test_equal_listings_and_no_others_have_no_changes(
    before: list[Listed], now: list[Listed]
) -> None:
    by_name = {each.name: each for each in before}
    same = by_name == {each.name: each for each in now}
    assert (list(changes(before, now)) == []) == same


def test_labels() -> None:
    assert stage_of("[builder 2/5] RUN [ x ]") == "builder"
    assert stage_of("[2/5] RUN x") == ""
    assert stage_of("FROM x") == ""
    assert place_of("[builder 2/5] RUN x") == "2"
    assert place_of("RUN x") == ""


def test_matching_keeps_to_stages_and_to_the_kind_of_instruction() -> None:
    before = [("[a 2/3] x", "RUN one"), ("[a 3/3] x", "COPY two"), ("[b 2/2] x", "RUN one")]
    now = [("[b 2/2] x", "RUN one"), ("[a 2/3] x", "COPY 2"), ("[a 3/3] x", "RUN 1")]
    assert match_steps(before, now) == {0: 2, 1: 1}
    assert match_steps(before, []) == match_steps([], now) == {}
