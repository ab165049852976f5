"""Finding files, contents, chunks and packages in images: what is seen, and what is hidden."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerstore.errors import InputError
from layerstore.image.trees.stack import load_root, lookup
from layerstore.measure.find import (
    ByChunk,
    ByContent,
    ByPath,
    content_like,
    contents_with_digest,
    find_entries,
)
from layerstore.measure.find_packages import find_packages, parse_package
from layerstore.measure.path_patterns import path_pattern
from layerstore.measure.versions import deb_key
from layerstore.store.store import Store
from tests.support.cli import Cli
from tests.support.insight import File, Layer, dpkg_status, image_of
from tests.support.measure import noise

SECRET = noise("secret", 3000)
BASE = Layer({b"etc/conf": b"1", b"root/.ssh/id_rsa": SECRET, b"srv/a": noise("a", 700_000)})
GONE = Layer({b"etc/conf": b"2"}, whiteouts=(b"root/.ssh",))


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", create=True) as store:
        yield store


def by_path(pattern):
    return ByPath(path_pattern(pattern))


def told(hits):
    return {(hit.entry.path, hit.depth, hit.hidden_depth, len(hit.images)) for hit in hits}


def test_what_is_seen_and_what_is_hidden(store):
    base = image_of(store, "base", BASE)
    apps = [image_of(store, f"app{n}", BASE, GONE, Layer({b"n": b"%d" % n})) for n in range(3)]
    images = [base, *apps]
    assert told(find_entries(store, images, by_path(b"id_rsa"))) == {(b"root/.ssh/id_rsa", 1, 0, 1)}
    assert told(find_entries(store, images, by_path(b"id_rsa"), hidden=True)) == {
        (b"root/.ssh/id_rsa", 1, 0, 1),
        (b"root/.ssh/id_rsa", 1, 2, 3),
    }
    assert told(find_entries(store, images, by_path(b"/etc/conf"), hidden=True)) == {
        (b"etc/conf", 1, 0, 1),
        (b"etc/conf", 1, 2, 3),
        (b"etc/conf", 2, 0, 3),
    }
    assert find_entries(store, apps, by_path(b"id_rsa")) == []


def test_content_and_chunks_are_found_by_every_name(store):
    layer = Layer(
        {b"one": SECRET, b"two": File(link=b"one"), b"copy": SECRET, b"other": b"x" * 3000}
    )
    image = image_of(store, "a", layer)
    (extents,) = {tuple(store_extents(store, image, b"one"))}
    paths = {(b"one", 1, 0, 1), (b"two", 1, 0, 1), (b"copy", 1, 0, 1)}
    assert told(find_entries(store, [image], ByContent([extents]))) == paths
    assert told(find_entries(store, [image], ByChunk(extents[0][1]))) == paths


def store_extents(store, image, path):
    return lookup(load_root(store, image.layers), path).entry.extents


def test_a_file_of_the_host_is_found_without_reading_content(store, tmp_path, monkeypatch):
    content = noise("large", 3_000_000)
    image = image_of(store, "a", Layer({b"large": content, b"x": content[:-1]}))
    file = tmp_path / "file"
    file.write_bytes(content)
    trees = {chunk for _, chunk in store.layer(image.layers[0]).tree}
    plain, read = store.read_chunk, set()
    monkeypatch.setattr(store, "read_chunk", lambda chunk: read.add(chunk) or plain(chunk))
    with file.open("rb") as stream:
        wanted = content_like(store, stream, len(content))
    assert len(wanted) > 1
    assert told(find_entries(store, [image], ByContent([wanted]))) == {(b"large", 1, 0, 1)}
    assert read == trees


def test_a_digest_is_found_by_reading_each_content_once(store):
    content = noise("large", 700_000)
    image = image_of(
        store, "a", Layer({b"large": content, b"copy": content, b"small": b"x"}), Layer({b"y": b""})
    )
    costs = []
    digest = hashlib.sha256(content).hexdigest()
    found = contents_with_digest(
        store, [image], digest, read=lambda files, size: costs.append((files, size))
    )
    assert costs == [(3, 700_001)]  # the empty one is one, too
    assert told(find_entries(store, [image], ByContent(found))) == {
        (b"large", 1, 0, 1),
        (b"copy", 1, 0, 1),
    }
    contents_with_digest(store, [image], digest, size=1, read=lambda *cost: costs.append(cost))
    assert costs[-1] == (1, 1)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        (b"id_rsa", b"root/.ssh/id_rsa", True),
        (b"*.pem", b"etc/ssl/a.pem", True),
        (b"*.pem", b"etc/a.pem/x", False),
        (b"/etc/*.pem", b"etc/ssl/a.pem", False),
        (b"/etc/**/*.pem", b"etc/ssl/x/a.pem", True),
        (b"/etc/**/*.pem", b"etc/a.pem", True),
        (b"/etc/**", b"etc/a/b", True),
        (b"etc/?", b"etc/a", True),
        (b"etc/[a-c]", b"etc/b", True),
        (b"etc/[!a-c]", b"etc/b", False),
        (b"etc[!a]b", b"etc/b", False),
        (b"a.b", b"axb", False),
        (b"[", b"[", True),
        (b"x\xff*", b"x\xffy", True),
        (b"[[a&&b||c~~d\\^]", b"&", True),
        (b"[+--]", b",", True),
    ],
)
def test_patterns(pattern, path, matches):
    assert bool(path_pattern(pattern).fullmatch(path)) is matches


@pytest.mark.parametrize("pattern", [b"", b"/", b"x" * 5000, b"[z-a]"])
def test_no_patterns(pattern):
    with pytest.raises(InputError):
        path_pattern(pattern)


def _fits(pattern, path):
    """Whether the words of a pattern fit a path, by trying everything."""
    if not pattern:
        return not path
    word, rest = pattern[0], pattern[1:]
    if word == b"**/":
        ends = [0, *(at + 1 for at in range(len(path)) if path[at : at + 1] == b"/")]
    elif word in (b"*", b"**"):
        reach = len(path) if word == b"**" else len(path.partition(b"/")[0])
        ends = list(range(reach + 1))
    else:
        ends = [1] if path[:1] == word or (word == b"?" and path[:1] not in (b"", b"/")) else []
    return any(_fits(rest, path[end:]) for end in ends)


_NAME = st.lists(st.sampled_from([b"a", b"b", b"?", b"*"]), min_size=1, max_size=5).map(
    lambda name: [
        word for at, word in enumerate(name) if word != b"*" or name[at - 1 : at] != [b"*"]
    ]
)
_PART = st.one_of(_NAME.map(lambda name: [*name, b"/"]), st.just([b"**/"]))


@given(
    st.lists(_PART, min_size=1, max_size=5),
    st.one_of(_NAME, st.just([b"**"])),
    st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=5),
)
def test_wildcards_that_are_tried_once_match_what_trying_everything_matches(parts, last, names):
    words = [word for part in parts for word in part] + last
    path = "/".join(names).encode()
    assert bool(path_pattern(b"/" + b"".join(words)).fullmatch(path)) is _fits(words, path)


def test_a_hostile_path_is_refused_without_trying_every_way():
    names, deep = b"*a" * 40 + b"b", b"**/a/" * 40 + b"b"
    assert path_pattern(names).fullmatch(b"a" * 255) is None  # else longer than anybody waits
    assert path_pattern(deep).fullmatch(b"a/" * 2000 + b"x") is None


@given(st.binary(max_size=40))
def test_any_pattern_is_one_or_an_error(pattern):
    with contextlib.suppress(InputError):
        path_pattern(pattern).fullmatch(b"some/path")


PATHS = st.sampled_from([b"a", b"b", b"d/a", b"d/b", b"d/e/f"])
LAYERS = st.builds(
    lambda files, gone, opaque: Layer(
        dict.fromkeys(files, b"content"),
        whiteouts=tuple(sorted(set(gone) - set(files))),
        opaques=opaque,
    ),
    st.lists(PATHS, max_size=4),
    st.lists(st.sampled_from([b"a", b"b", b"d", b"d/e"]), max_size=2),
    st.sampled_from([(), (b"d",)]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(LAYERS, min_size=1, max_size=4))
def test_what_is_seen_is_what_the_stacked_tree_shows(tmp_path_factory, layers):
    """Law: with --hidden every file of every layer is told once, and seen are those of the tree."""
    with Store.open(tmp_path_factory.mktemp("store") / "s", create=True) as store:
        image = image_of(store, "a", *layers, Layer({b"end": b"x"}))
        hits = find_entries(store, [image], by_path(b"/**"), hidden=True)
        root = load_root(store, image.layers)
        seen = {hit.entry.path for hit in hits if hit.hidden_by is None}
        names = {b"a", b"b", b"d/a", b"d/b", b"d/e/f", b"end"}
        assert seen == {path for path in names if lookup(root, path) is not None}
        assert len(hits) == sum(store.layer(each).entry_count for each in image.layers)


class TestPackages:
    def test_by_name_source_and_version(self, store):
        status = dpkg_status(openssl="3.0.15-1~deb12u1", curl="8").replace(
            b"Package: curl\n", b"Package: libssl3\nSource: openssl\n"
        )
        old = image_of(
            store,
            "old",
            Layer({b"var/lib/dpkg/info/openssl.list": b"/.\n"}),
            Layer({b"var/lib/dpkg/status": status}),
        )
        site = b"opt/venv/lib/python3/site-packages/"
        new = image_of(
            store,
            "new",
            Layer({site + b"openssl.dist-info/METADATA": b"Name: OpenSSL\nVersion: 9\n"}),
        )

        def found(text):
            hits = find_packages(store, [old, new], parse_package(text)).hits
            return {(hit.package.name, hit.package.version, hit.depth) for hit in hits}

        deb = {("openssl", "3.0.15-1~deb12u1", 1), ("libssl3", "8", 2)}
        assert found("openssl") == {*deb, ("openssl", "9", 1)}
        assert found("openssl=3.*") == {("openssl", "3.0.15-1~deb12u1", 1)}
        assert found("openssl<3.0.15-1") == {("openssl", "3.0.15-1~deb12u1", 1)}
        assert found("openssl>=3.0.15-1") == {("libssl3", "8", 2), ("openssl", "9", 1)}
        assert found("*ssl*>1") == {*deb, ("openssl", "9", 1)}
        assert found("openssl<10") == {("openssl", "3.0.15-1~deb12u1", 1), ("libssl3", "8", 2),
                                       ("openssl", "9", 1)}  # fmt: skip
        assert find_packages(store, [new], parse_package("openssl<10~1")).not_compared == 1

    @pytest.mark.parametrize("text", ["", "=1", "<3", "x=", "n" * 400])
    def test_no_packages(self, text):
        with pytest.raises(InputError):
            parse_package(text)

    SORTED = ("1.0~~", "1.0~rc1", "1.0", "1.0-0ubuntu1", "1.0-1~bpo1", "1.0-1", "1.0a", "1.0+b1",
              "1.0.1", "1.9", "1.10", "2", "1:0.1", "10:0")  # fmt: skip

    def test_versions_sort_as_dpkg_sorts_them(self):
        keys = [deb_key(each) for each in self.SORTED]
        assert keys == sorted(keys)
        assert len(set(keys)) == len(keys)
        assert deb_key("1.0") == deb_key("1.0-0")

    @pytest.mark.skipif(shutil.which("dpkg") is None, reason="needs dpkg to compare with")
    def test_dpkg_agrees(self):
        for left in self.SORTED:
            for right in self.SORTED:
                command = ["dpkg", "--compare-versions", left, "lt", right]
                is_less = subprocess.run(command, check=False).returncode == 0
                assert is_less == (deb_key(left) < deb_key(right)), (left, right)


class TestCommand:
    @pytest.fixture
    def cli(self, store):
        hostile = Layer({b"srv/\x1b[31m": b"x", b"srv/\xff": b"y"}, step="RUN \x1b[2J")
        status = {b"var/lib/dpkg/status": dpkg_status(openssl="3.0.1")}
        image_of(store, "app", BASE, GONE, hostile, Layer(status))
        return Cli(store.root)

    def test_nothing_is_one(self, cli):
        nothing = cli("find", "nowhere")
        assert (nothing.code, nothing.out, nothing.err) == (1, "", "")
        assert cli("find", "id_rsa").code == 1
        assert cli("find", "--package", "nothing").code == 1
        assert cli("find", "nowhere", "--json").json() == []

    def test_near_words_are_told_where_nothing_is_found(self, cli):
        for words, near in (
            (("/etc/cnof",), "/etc/conf?"),
            (("cnof",), "did you mean conf?"),
            (("/srv/id_rsa",), "/root/.ssh/id_rsa?"),
            (("-p", "opensssl"), "did you mean openssl?"),
            (("-p", "openssl>4"), "in other versions only: openssl 3.0.1"),
            (("id_rsa",), "--hidden"),
        ):
            result = cli("find", *words)
            assert (result.code, result.out) == (1, "")
            assert near in result.err
        assert cli("find", "cnof*").err == ""

    def test_hidden_files_are_told(self, cli):
        assert "hidden by 2" in cli.ok("find", "id_rsa", "--hidden").out
        (found,) = cli.ok("find", "id_rsa", "--hidden", "--json").json()
        assert found["hidden_by"]["number"] == 2
        assert found["images"][0]["names"] == ["app:latest"]

    def test_names_are_printed_safely(self, cli):
        assert "\x1b" not in cli.ok("find", "/srv/*").out
        assert len(cli.ok("find", "/srv/*", "--json").json()) == 3

    def test_contents(self, cli, tmp_path):
        digest = hashlib.sha256(SECRET).hexdigest()
        result = cli.ok("find", f"sha256:{digest}", "--hidden", "--size", "3000")
        assert "/root/.ssh/id_rsa" in result.out
        assert "reading 1 content, " in result.err
        file = tmp_path / "secret"
        file.write_bytes(SECRET)
        assert "/root/.ssh/id_rsa" in cli.ok("find", "--like", file, "--hidden").out
        with Store.open(cli.store) as store:
            chunk = store_extents(store, store.resolve("app"), b"srv/a")[0][1].hex()
        assert "/srv/a" in cli.ok("find", chunk).out

    def test_long_versions_of_strangers_leave_a_table_readable(self, store):
        long = "9" * 290
        for name, version in (("a", "1"), ("b", long)):
            image_of(store, name, Layer({b"var/lib/dpkg/status": dpkg_status(evil=version)}))
        cli = Cli(store.root)
        found = cli.ok("find", "-p", "evil", "-i", "b", "--json").json()
        assert found["packages"][0]["version"] == long
        for shown in (cli.ok("find", "-p", "evil").out, cli.ok("diff", "a", "b", "--packages").out):
            assert max(map(len, shown.splitlines())) < 200
            assert "9…" in shown

    def test_packages(self, cli):
        result = cli.ok("find", "-p", "openssl<3.0.2")
        assert result.lines[1].split()[:4] == ["app:latest", "openssl", "3.0.1", "deb"]
        found = cli.ok("find", "--package", "openssl", "--json").json()
        assert found["packages"][0]["version"] == "3.0.1"

    def test_what_makes_no_sense_is_refused(self, cli, tmp_path):
        cli.fails(2, "find")
        cli.fails(2, "find", "x", "--package", "y")
        assert "64 hexadecimal digits" in cli.fails(2, "find", "sha256:abc")
        cli.fails(2, "find", "x", "--size", "1")
        cli.fails(2, "find", "--package", "y", "--hidden")
        cli.fails(2, "find", "--like", tmp_path)
        assert "does not exist" in cli.fails(3, "find", "--like", tmp_path / "nowhere")
        cli.fails(3, "find", "x", "--image", "nowhere")
