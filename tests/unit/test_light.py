"""What stands in for slow modules of the library says what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import light_json
from layerstore.cli import fast
from layerstore.cli.parsing.light_parser import LightParser
from layerstore.errors import InputError
from layerstore.formats.reference import is_tag, may_be_id
from layerstore.light_re import HEX, Pattern, only
from layerstore.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
WORDS = (
    "-i", "-t", "-it", "-ti", "-d", "-e", "-eA=b", "-e=A", "A=b", "--env", "--env=A=b", "--rm",
    "--rm=1",
    "--name", "--name=x", "x", "-", "--", "", "--pids-limit", "--pids-limit=5", "5", "-5", "--pull",
    "always", "--pull=never", "--pull=x", "-p", "80:80", "--gpus=all", "--no-healthcheck", "--what",
    "-h", "-q", "-m", "1g", "--net", "none", "--memory=1g", "-v", "/a:/b", "image", "--entrypoint=",
)  # fmt: skip


@given(VALUES)
def test_json_is_written_and_read_as_json_does(value: object) -> None:
    text = json.dumps(value)
    assert light_json.dumps(value) == text
    assert light_json.dumps(value, sort_keys=True) == json.dumps(value, sort_keys=True)
    assert light_json.loads(text) == value
    assert light_json.loads(f" {text}\n".encode()) == value


@pytest.mark.parametrize("text", ["{", '{"a"', "[1,", '{"a":1,', '"', ""])
def test_what_is_cut_short_is_told_where_json_is_not_loaded(text: str) -> None:
    program = (
        "import sys; from layerstore import light_json\n"
        "assert 'json' not in sys.modules\n"
        "try: light_json.loads(sys.argv[1])\n"
        "except ValueError as err: print(type(err).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, text], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("JSONDecodeError\n", "")


@given(st.text("{}[]:,\"'0123456789.eE+- \\ntrufalsN\ufeff\x00", max_size=12))
def test_what_is_no_json_is_told_in_the_same_words(text: str) -> None:
    for given_ in (text, text.encode(), text.encode("utf-16"), text.encode("utf-8-sig")):
        assert _told(light_json.loads, given_) == _told(json.loads, given_)


def _told(loads, text: str | bytes) -> str:
    try:
        return repr(loads(text))
    except ValueError as err:
        return f"{type(err).__name__}: {err}"


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes"])
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="is not JSON serializable"):
        light_json.dumps([value])


@given(st.lists(st.sampled_from(WORDS), max_size=7))
def test_a_plain_command_line_is_what_argparse_makes_of_it(words: list[str]) -> None:
    light = LightParser()
    fast.declare("run", light)
    plain = light.parse(words)
    if plain is None:
        return
    assert vars(plain) == vars(_by_argparse(words))


def _by_argparse(words: list[str]):
    from layerstore.cli.container.commands import split_command_line

    parser = fast.parser_of("run")
    own, rest = split_command_line(parser, words)
    options = parser.parse_args(own)
    options.command = rest
    return options


def test_plain_command_lines_need_no_argparse() -> None:
    light = LightParser()
    fast.declare("run", light)
    words = ["--rm", "-it", "-e", "A=b", "--name=x", "--pids-limit", "5", "image", "ls", "-l"]
    options = light.parse(words)
    assert options is not None
    assert (options.rm, options.tty, options.interactive, options.detach) == (
        True,
        True,
        True,
        False,
    )
    assert (options.env, options.name, options.pids_limit) == (["A=b"], "x", 5)
    assert (options.image, options.command) == ("image", ["ls", "-l"])


def test_what_is_wrong_is_told_by_argparse() -> None:
    with pytest.raises(InputError, match="--pids-limit: invalid int value"):
        fast.parse("run", ["--pids-limit", "five", "image"])


def test_patterns_match_as_those_of_re_do() -> None:
    pattern = Pattern(r"(\d+)([smh])")
    assert pattern.fullmatch("12s")
    assert not pattern.fullmatch("12x")
    assert not pattern.fullmatch("\u0661s")  # classes are ASCII
    assert pattern.findall("1s2h") == [("1", "s"), ("2", "h")]


@given(st.text(HEX + "sha256:g\n", max_size=70))
def test_ids_and_tags_are_what_their_patterns_say(text: str) -> None:
    assert may_be_id(text) == bool(Pattern(r"(?:sha256:)?[0-9a-f]{4,64}").fullmatch(text))
    assert is_tag(text) == bool(Pattern(r"\w[\w.-]{0,127}").fullmatch(text))
    assert only(text, HEX) == bool(Pattern(r"[0-9a-f]*").fullmatch(text))


def test_starting_imports_no_slow_module() -> None:
    program = (
        "import sys; from layerstore.cli import fast, main\n"
        "from layerstore.cli.container import run\n"
        "from layerstore.containers import lifecycle, starting, attach\n"
        "from layerstore.store.catalog import catalog\n"
        "from layerstore.store.names import names\n"
        "from layerstore.store.names import usage\n"
        "fast.parse('run', ['--rm', 'image', 'true'])\n"
        "print([name for name in ('typing', 're', 'enum', 'json', 'argparse', 'signal', 'sqlite3',"
        " 'socket', 'threading', 'pathlib', 'subprocess', 'dataclasses') if name in sys.modules])"
    )
    assert _said(program) == "[]\n"


def test_answering_a_known_build_imports_no_slow_module() -> None:
    program = (
        "import sys; from layerstore.cli import main, warm_client\n"
        "from layerstore.cli.build import again, ui\n"
        "from layerstore.build import known\n"
        "from layerstore.store.catalog import catalog\n"
        "again._parsed(['-t', 'name', '.'])\n"
        "with ui.watching('auto', quiet=False) as shown: shown.planned(1)\n"
        "print([name for name in ('typing', 're', 'enum', 'json', 'argparse', 'signal', 'sqlite3',"
        " '_socket', 'threading', 'pathlib', 'msgspec', 'dataclasses') if name in sys.modules])"
    )
    assert _said(program) == "[]\n"


def test_builds_import_no_extensions_of_typing() -> None:
    program = (
        "import sys\n"
        "from layerstore.light_imports import load_cutter, load_msgspec\n"
        "load_msgspec(); load_cutter()\n"
        "from layerstore.build import api, running\n"
        "from layerstore.chunking.cutter import DEFAULT_CUTS, cut_stream\n"
        "import io, msgspec, typing\n"
        "file = io.BytesIO(bytes(1 << 20))\n"
        "sizes = [len(each) for each in cut_stream(file.read, 1 << 20, DEFAULT_CUTS)]\n"
        "of = typing.TypedDict('of', {'a': int, 'b': typing.NotRequired[str]})\n"
        "least = typing.Annotated[int, msgspec.Meta(ge=1)]\n"
        "print(sum(sizes), msgspec.convert({'a': 1}, of), msgspec.convert(2, least),"
        " [name for name in ('typing_extensions', 'inspect') if name in sys.modules])"
    )
    assert _said(program) == "1048576 {'a': 1} 2 []\n"


def test_extensions_that_are_there_stay() -> None:
    program = (
        "import sys, typing_extensions\n"
        "from layerstore.light_imports import load_cutter, load_msgspec\n"
        "load_msgspec(); load_cutter()\n"
        "print(sys.modules['typing_extensions'] is typing_extensions)"
    )
    assert _said(program) == "True\n"


def test_zstandard_needs_no_platform() -> None:
    program = (
        "import sys\n"
        "from layerstore.light_imports import load_zstandard\n"
        "load_zstandard()\n"
        "print('platform' in sys.modules)\n"
        "import platform, zstandard\n"
        "print(zstandard.backend, platform.python_implementation(), bool(platform.machine()))\n"
        "print(zstandard.decompress(zstandard.compress(b'plain')))"
    )
    assert _said(program) == "False\ncext CPython True\nb'plain'\n"


def test_showing_an_image_for_the_first_time_imports_only_what_reads(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from layerstore.light_imports import load_msgspec, load_zstandard\n"
        "load_msgspec(); load_zstandard()\n"
        "from layerstore.image.kernel.metadata_image import prepare_view\n"
        "from layerstore.store.reading import StoreReader\n"
        f"StoreReader.open({str(tmp_path)!r}).close()\n"
        "print([name for name in ('typing_extensions', 'inspect', 'platform', 'tomllib',"
        " 'concurrent.futures') if name in sys.modules])"
    )
    Store.open(tmp_path, create=True).close()
    assert _said(program) == "[]\n"


def _said(program: str) -> str:
    """Return what a program says in an interpreter that has imported nothing else."""
    path = ":".join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path = {path!r}.split(':'); {program}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
