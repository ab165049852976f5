"""Laws of native specs: order says nothing, every mistake has a place, places are right."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.graph import BaseOp, ContextOp, MergeOp, topological
from layerstore.build.native.limits import MAX_DEPTH
from layerstore.build.native.lockfile import decode, encode
from layerstore.build.native.reader import Node, read_toml
from layerstore.errors import FormatError, LimitExceededError
from tests.support.native import lowered

if TYPE_CHECKING:
    from collections.abc import Sequence

SECTIONS = [
    'base = "debian"',
    'workdir = "/srv"',
    'user = "app"',
    'run = ["first", { command = "second", env = { B = "2", A = "1" } }]',
    'cmd = ["x", "y"]',
    "ports = [80, 443]",
    'labels = { b = "2", a = "1" }',
    'env = { PATH = "/x:{{env.PATH}}", B = "{{v}}", A = "1" }',
    'users = { zoe = {}, app = { groups = ["b", "a"] } }',
    'files = { "/b" = "b", "/a" = { from = ["c", "d"], mode = "0644" }, "z" = { content = "1" } }',
    'stages = { two = { base = "other" }, one = { base = "tools", run = "x" } }',
    'steps = [{ run = "third", files = { "/s" = { stage = "one", from = "s" } } }]',
    'args = { v = "1", w = "2" }',
]
APT = ["curl", "git", "nginx", "python3", "zsh"]
PIP = ["flask>=3", "gunicorn", "requests[socks]"]
NPM = ["express@^4", "@scope/tool", "left-pad"]


def work(text: str) -> list[object]:
    """Return everything that is done, in order, and what comes of it."""
    made = lowered(text)
    order = topological(made.state.vertex)
    ops = [each.op for each in order if not isinstance(each.op, BaseOp | ContextOp | MergeOp)]
    return [*ops, made.config, made.told]


def quoted(words: Sequence[str]) -> str:
    return json.dumps(list(words))


def packages(apt: Sequence[str], pip: Sequence[str], npm: Sequence[str]) -> str:
    return f"packages = {{ npm = {quoted(npm)}, apt = {quoted(apt)}, pip = {quoted(pip)} }}"


PLAIN = work("\n".join([*SECTIONS, packages(APT, PIP, NPM)]))


@given(st.permutations([*range(len(SECTIONS) + 1)]), st.permutations(APT), st.data())
def test_the_order_of_keys_and_packages_says_nothing(
    order: list[int], apt: list[str], data: st.DataObject
) -> None:
    more = data.draw(st.lists(st.sampled_from(apt), max_size=3))
    pip = [
        data.draw(st.sampled_from([word, word.upper().replace("[SOCKS]", "[socks]"), f" {word} "]))
        for word in data.draw(st.permutations(PIP))
    ]
    npm = data.draw(st.permutations(NPM))
    sections = [*SECTIONS, packages([*apt, *more], pip, npm)]
    assert work("\n".join(sections[index] for index in order)) == PLAIN


PIECES = [
    *("base", "packages", "apt", "files", "run", "stages", "env", "matrix", "args", "include"),
    *("tags", "users", "pip", "content", "from", "stage", "command", "cache", "bootstrap"),
    *(" = ", "=", '"', "'", '"""', "'''", "[", "]", "[[", "]]", "{", "}", ",", ".", "\n", "\r\n"),
    *('"debian"', '"scratch"', "1", "true", "1979-05-27", "nan", "#", "{{", "}}", "{{a}}", "\\"),
    *("{{env.PATH}}", '["a"]', '["a", "b"]', "/", "..", "é", "\0", "\u202e", "a", "b", "-1", "0x"),
]
HOSTILE = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from(PIECES), max_size=50).map(lambda parts: "".join(parts).encode()),
    st.tuples(
        st.lists(st.sampled_from([*SECTIONS, "", "[x]", "[[run]]", "[stages.a]"]), max_size=6),
        st.lists(st.sampled_from(PIECES), max_size=8),
        st.lists(st.sampled_from(SECTIONS), max_size=3),
    ).map(lambda parts: "\n".join([*parts[0], "".join(parts[1]), *parts[2]]).encode()),
)


@given(HOSTILE)
def test_any_bytes_give_a_graph_or_an_error_with_its_place(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    error: SpecError | LimitExceededError | None = None
    try:
        lowered(text) if text else read_toml(data, "layerstore.toml")
    except (SpecError, LimitExceededError) as err:
        error = err
    if error is not None:
        assert str(error).startswith("layerstore.toml:")
    if isinstance(error, SpecError):
        assert str(error).isprintable()
        assert 1 <= error.line <= data.count(b"\n") + 1
        assert error.excerpt().replace("\n", "").isprintable()


KEYS = st.text(st.sampled_from('ab-_é ."\\\n#['), min_size=1, max_size=4)
VALUES = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.text(st.sampled_from("a\"\\\n#[]{}=,'"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def toml(value: object) -> str:
    """Return a value as inline TOML."""
    if isinstance(value, dict):
        inside = ", ".join(f"{key_of(key)} = {toml(item)}" for key, item in value.items())
        return "{" + inside + "}"
    if isinstance(value, list):
        return "[" + ",\n".join(map(toml, value)) + "]"
    return json.dumps(value)


def key_of(key: str) -> str:
    return json.dumps(key)


@given(st.dictionaries(KEYS, VALUES, max_size=4), st.sampled_from(["", "# [c]\n", "\n\n"]))
def test_every_key_is_where_the_text_has_it(document: dict[str, object], between: str) -> None:
    text = "".join(f"{between}{key_of(key)} = {toml(value)}\n" for key, value in document.items())
    lines = text.split("\n")

    def check(node: Node, value: object) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                below = node.get(key)
                assert below is not None
                span = below.key_span
                assert lines[span.line - 1][span.column - 1 :].startswith(key_of(key))
                check(below, item)
        elif isinstance(value, list):
            assert isinstance(node.value, list)
            for inner, item in zip(node.value, value, strict=True):
                start = lines[inner.span.line - 1][inner.span.column - 1 :]
                assert start.startswith(toml(item).split("\n")[0])
                check(inner, item)
        else:
            assert node.value == value

    check(read_toml(text.encode(), "f"), document)


@given(st.integers(0, 60), st.sampled_from(["[", '{"a"=']))
def test_depth_is_refused_from_one_number_on(depth: int, opening: str) -> None:
    closing = "]" if opening == "[" else "}"
    text = f"k = {opening * depth}1{closing * depth}".encode()
    try:
        read_toml(text, "f")
    except LimitExceededError:
        assert depth >= MAX_DEPTH
    else:
        assert depth <= MAX_DEPTH


@given(st.binary(max_size=200))
def test_a_lock_file_of_any_bytes_is_read_or_refused(data: bytes) -> None:
    try:
        lock = decode(data, "f")
    except (FormatError, LimitExceededError):
        return
    assert decode(encode(lock), "f") == lock
