"""What is fuzzed: for every parser of bytes from strangers, its law and its seeds.

A target's ``run`` gets any bytes. It may return, or raise one of ``refusals``; every other
exception, an assertion about what was accepted included, is a finding. Seeds are
encodings that the product itself or honest tools make.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import FormatError, LayerstoreError, UnsafeContentError
from layerstore.formats.tar_limits import Limits
from tests.security.fuzz import seeds
from tests.security.fuzz.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.build.dockerfile.errors import SpecError

REFUSALS = (FormatError, UnsafeContentError)
LIMITS = Limits(
    expanded_bytes=4 << 20,
    logical_bytes=1 << 40,
    entries=500,
    sparse_regions=500,
    trailing_bytes=1 << 16,
    window_bytes=1 << 23,
)
"""Small, so that an input that costs much is a finding and not a large archive."""


class Target(NamedTuple):
    """One parser and its law.

    Attributes:
        seeds: Makes valid inputs; called once.
        repair: Makes checksums right again after a mutation, so that what lies behind
            them is reached; used for half of the inputs.
        tokens: Pieces worth inserting.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    repair: Callable[[bytes], bytes] = lambda data: data
    tokens: tuple[bytes, ...] = ()
    refusals: tuple[type[Exception], ...] = REFUSALS
    max_bytes: int = 16384


# -- layers ------------------------------------------------------------------------


def read_tar(data: bytes) -> None:
    """What is accepted is a valid tree and comes out again bit for bit."""
    from layerstore.formats.tree import decode_changeset
    from layerstore.image.layers.ingest_tar import ingest_tar
    from layerstore.image.trees.export_layer import layer_tar
    from tests.support.encoding import encode_changeset

    store = MemoryStore()
    record = ingest_tar(store, io.BytesIO(data), limits=LIMITS)  # type: ignore[arg-type]
    out = b"".join(layer_tar(store, record))  # type: ignore[arg-type]
    if not data.startswith(seeds.COMPRESSED):
        assert out == data
    assert record.diff_id == "sha256:" + hashlib.sha256(out).hexdigest()
    encoded = store.read_refs(record.tree)
    assert encode_changeset(decode_changeset(encoded)) == encoded


def decompress(data: bytes) -> None:
    """Output comes in bounded pieces and stays below the limit."""
    from layerstore.formats.decompress import SPAN_BYTES, decompressed

    total = 0
    for span in decompressed(io.BytesIO(data).read, LIMITS):
        assert len(span) <= SPAN_BYTES + (1 << 18)
        total += len(span)
    assert total <= LIMITS.expanded_bytes


def read_tree(data: bytes) -> None:
    """One encoding a tree: what decodes encodes to the same bytes."""
    from layerstore.formats.tar_writer import canonical_members
    from layerstore.formats.tree import decode_changeset
    from tests.support.encoding import encode_changeset

    changeset = decode_changeset(data)
    assert encode_changeset(changeset) == data
    for _ in canonical_members(changeset):
        pass


def read_recipe(data: bytes) -> None:
    from layerstore.formats.recipe import decode_plan, segments

    plan = decode_plan(data)
    total = sum(literal for literal, _ in segments(plan, len(plan.own) + 100))
    assert total == plan.literal_bytes


# -- the store ---------------------------------------------------------------------


def read_pack(data: bytes) -> None:
    """A footer that is accepted lists blocks that lie in the file, and items that tile them."""
    from layerstore.store.packs.codec import decompress_block
    from layerstore.store.packs.pack_reader import read_footer

    fd = _file_of(data)
    blocks = read_footer(fd)
    end = 0
    for block in blocks:
        assert end <= block.offset
        end = block.offset + block.stored_length
        assert end <= len(data)
        assert sum(item.length for item in block.items) == block.raw_length
        try:
            raw = decompress_block(data[block.offset : end], block.raw_length)
        except FormatError:
            continue
        assert len(raw) == block.raw_length


@cache
def _memory_file() -> int:
    return os.memfd_create("pack")


def _file_of(data: bytes) -> int:
    from layerstore.linux.files import ShortFileError

    fd = _memory_file()
    os.ftruncate(fd, 0)
    if os.pwrite(fd, data, 0) != len(data):
        raise ShortFileError
    return fd


def read_bundle(data: bytes) -> None:
    """Whatever a bundle's records say, no more is read than they may have."""
    from layerstore.formats import bundle

    stream = io.BytesIO(data)
    bundle.check_header(stream.read(bundle.HEADER.size))
    while True:
        head = bundle.decode_record(stream.read(bundle.RECORD.size))
        payload = bundle.read_exactly(stream.read, head.length)
        if head.kind == bundle.DESCRIPTION_KIND:
            description = bundle.decode_description(payload)
            again = bundle.encode_description(description)
            assert bundle.decode_description(again) == description
        elif head.kind == bundle.END_KIND:
            return


def read_parcel_description(data: bytes) -> None:
    """What is accepted is described again in the same words."""
    from layerstore.formats import parcels

    found = parcels.decode_parcel_description(data)
    again = parcels.encode_parcel_description(found)
    assert parcels.decode_parcel_description(again) == found


def read_table(data: bytes) -> None:
    """Blocks lie within the pack that the table is said to be of: its size comes first."""
    from layerstore.formats.parcels import decode_table

    size = int.from_bytes(data[:8], "little")
    blocks = decode_table(data[8:], size)
    assert all(0 < block.offset + block.stored_length < size for block in blocks)


def read_have_list(data: bytes) -> None:
    """What is accepted is the one encoding of its ids."""
    from layerstore.formats.have_list import decode_have_list, encode_have_list

    assert encode_have_list(decode_have_list(data)) == data


def read_layer_record(data: bytes) -> None:
    from layerstore.store.records import decode_layer, encode_layer

    record = decode_layer(data)
    assert decode_layer(encode_layer(record)) == record


def read_names_log(data: bytes) -> None:
    """Whatever a log says, what it adds up to can be written and sealed."""
    from layerstore.store.catalog.seals import seal
    from layerstore.store.names import names_log

    log = names_log.decode_log(data)
    known = {record[2] for record in log.records if record[0] == names_log.TAG}
    names = names_log.replay(log.records, known)
    for name, image_id in names.items():
        seal("tags", name, image_id)
    again = b"".join(map(names_log.encode_record, names_log.snapshot(names)))
    assert names_log.replay(names_log.decode_log(again).records, known) == names


def read_store_config(data: bytes) -> None:
    from layerstore.store.config import parse_config

    parse_config(data)


# -- documents of images -----------------------------------------------------------


def read_manifest(data: bytes) -> None:
    """A document that is accepted survives a round trip."""
    from layerstore.formats.oci import decode_manifest, encode_manifest

    value = decode_manifest(data)
    assert decode_manifest(encode_manifest(value)) == value


def read_index(data: bytes) -> None:
    from layerstore.formats.oci import decode_index, encode_index

    value = decode_index(data)
    assert decode_index(encode_index(value)) == value


def read_config(data: bytes) -> None:
    from layerstore.formats.oci_config import decode_config, encode_config

    value = decode_config(data)
    assert decode_config(encode_config(value)) == value


def read_stored_config(data: bytes) -> None:
    """The store's own short look at configs and manifests, which rebuild relies on."""
    from layerstore.store.names.tags import image_facts

    image_facts(data)


def read_stored_manifest(data: bytes) -> None:
    from layerstore.store.names.tags import manifest_config

    manifest_config(data)


def read_reference(data: bytes) -> None:
    """A name that is accepted is the same when it is read again."""
    from layerstore.formats.reference import lookup_form, parse_reference

    text = os.fsdecode(data)
    reference = parse_reference(text)
    assert parse_reference(reference.name).name == reference.name
    lookup_form(text)


# -- spec texts --------------------------------------------------------------------


def read_dockerfile(data: bytes) -> None:
    """From bytes to a graph; errors stand at a place of the file and can be printed."""
    from layerstore.build.dockerfile.errors import SpecError
    from layerstore.build.dockerfile.parser import parse_dockerfile
    from layerstore.build.lower import lower
    from layerstore.build.lower_options import LowerOptions
    from layerstore.build.platforms import Platform

    try:
        tree = parse_dockerfile(data)
        options = LowerOptions({"A": "given"}, {}, None, True, Platform("linux", "amd64", ""))
        lower(tree, options, seeds.AnyImage())
    except SpecError as err:
        _check_place(err, data)
        raise


def read_native_spec(data: bytes) -> None:
    """From bytes to a graph, twice the same; errors stand at a place and can be printed."""
    from layerstore.build.dockerfile.errors import SpecError
    from layerstore.build.native.frontend import Document, lower_targets
    from layerstore.build.native.lockfile import NoLocks
    from tests.support.native import FakeSources, options

    def lowered() -> list[object]:
        document = Document(data, "Dockerfile", None)
        sources = seeds.AnyNativeImage()
        made = lower_targets(document, options(), sources, FakeSources(), NoLocks(), epoch=None)
        return [target.plan.state.config for target in made.targets]

    try:
        assert lowered() == lowered()
    except SpecError as err:
        _check_place(err, data)
        raise


def read_lock_file(data: bytes) -> None:
    """A lock file that is accepted is the same when it is written and read again."""
    from layerstore.build.native.lockfile import decode, encode

    lock = decode(data, "lock")
    assert decode(encode(lock), "lock") == lock


def check_dockerfile(data: bytes) -> None:
    """Findings stand at places of the file, are told the same way twice, and can be printed."""
    from layerstore.build.checking import Checked, physical_lines
    from layerstore.build.dockerfile.parser import parse_dockerfile
    from layerstore.build.ignore import IgnoreRules
    from layerstore.build.lint.lint import lint
    from layerstore.build.lint.meaning import Surroundings
    from layerstore.build.outline import outline
    from layerstore.build.platforms import Platform
    from layerstore.cli.build.calls import report
    from layerstore.cli.output import printable

    tree = parse_dockerfile(data)
    lines = physical_lines(data)
    platform = Platform("linux", "amd64", "")
    find = seeds.AnyImage().find
    around = Surroundings({"A": "given"}, platform, platform, find, IgnoreRules.parse(b"a\n!a/b"))
    findings = lint(tree, lines, around)
    assert findings == lint(tree, lines, around)
    for finding in findings:
        assert 1 <= finding.span.line <= finding.span.end_line <= len(lines)
    stage = tree.stages[-1]
    told = outline(tree, lines, around, stage)
    assert told.target.is_default
    assert {each.span.line for each in told.arguments} <= set(range(1, len(lines) + 1))
    for line in report(Checked("Dockerfile", lines, tree, findings, around)):
        assert line == printable(line)  # nothing in it acts on a terminal


def read_trigger(data: bytes) -> None:
    """An ONBUILD trigger of an image's config, which says what it likes."""
    from layerstore.build.dockerfile.expand import expand_instruction
    from layerstore.build.dockerfile.parser import parse_instruction

    instruction = parse_instruction(data.decode(errors="surrogateescape"))
    assert instruction.KEYWORD not in ("FROM", "ONBUILD", "MAINTAINER")
    assert type(expand_instruction(instruction, {"A": "a b", "V": ""})) is type(instruction)


def expand(data: bytes) -> None:
    """A word; what is unset in it is unset, and setting it changes nothing else."""
    from layerstore.build.dockerfile.expand import expand_word, expand_words, unset_names

    word = data.decode(errors="replace")
    env = {"A": "a b", "E": "", "P": "x/y*z"}
    missing = unset_names(word, env)
    assert not set(missing) & set(env)
    value = expand_word(word, env)
    expand_words(word, env)
    told = dict.fromkeys(missing, "")
    if not any(form in word for form in ("-", "+", "?")):
        assert expand_word(word, env | told) == value


def _check_place(error: SpecError, data: bytes) -> None:
    assert str(error).startswith("Dockerfile:")
    assert str(error).isprintable()
    assert 1 <= error.line <= data.count(b"\n") + 1
    assert error.excerpt().replace("\n", "").isprintable()


def read_ignore_rules(data: bytes) -> None:
    from layerstore.build.ignore import IgnoreRules

    rules = IgnoreRules.parse(data)
    for path in ("a", "a/b", "b/c/d", "a/b/c/d/e.txt", "é", "\udcff", "." * 100, "x/" * 50 + "y"):
        rules.excluded(path)
        rules.may_contain_included(path)


def list_packages(data: bytes) -> None:
    """Whatever lies where databases of packages lie, the list of them is a JSON document."""
    from layerstore.formats.tree import Changeset, Entry, Kind
    from layerstore.image.sbom.scan import sbom_of
    from layerstore.image.trees.stack import stack

    class OneContent:
        def read_refs(self, _refs: object) -> bytes:
            return data

    extents = ((len(data), bytes(32)),) if data else ()
    root = stack(
        [
            Changeset(
                tuple(
                    Entry(path=path, kind=Kind.FILE, size=len(data), extents=extents)
                    for path in seeds.PACKAGE_DATABASES
                )
            )
        ]
    )
    sbom = sbom_of(
        OneContent(),
        root,
        name="x",
        image_id="sha256:0",
        created="1970-01-01T00:00:00Z",  # type: ignore[arg-type]
    )
    assert len(json.loads(sbom.text)["packages"]) <= sbom.packages + 1


def read_rpm_header(data: bytes) -> None:
    from layerstore.image.sbom.rpm import header_fields

    assert all(len(text) <= 300 for text in header_fields(data).values())


def read_source_pattern(data: bytes) -> None:
    from layerstore.build.ignore import match_source

    pattern, _, path = os.fsdecode(data).partition("\n")
    match_source(pattern, path)


def read_remote_source(data: bytes) -> None:
    from layerstore.build.fetch.git_url import joined_remote, parse_git_source
    from layerstore.net.urls import file_name, is_http, parse_http_url

    text, _, other = data.decode("utf-8", "surrogateescape").partition("\n")
    source = parse_git_source(text)
    if source is not None:
        _check_remote(source.remote)
        assert not source.ref.startswith("-")
        assert ".." not in source.subdir.split("/")
        _check_remote(joined_remote(source.remote, other))
    elif is_http(text):
        url = parse_http_url(text)
        assert url.target.isascii()
        assert url.target.startswith("/")
        assert not set(url.target + url.authority) & set("\r\n \0")
        name = file_name(url.path, other)
        assert name not in (b"", b".", b"..")
        assert not set(name) & set(b"/\0")


def _check_remote(remote: str) -> None:
    """Nothing that git or ssh could take for an option or another protocol."""
    scheme, separator, rest = remote.partition("://")
    if separator and "@" not in scheme:
        assert scheme in ("http", "https", "ssh", "git")
        assert not rest.startswith("-")
        assert not rest.rpartition("@")[2].startswith("-")
    else:
        user, _, host = remote.partition("@")
        assert user
        assert not user.startswith("-")
        assert not host.startswith("-")
    assert not any(ord(char) < 32 or ord(char) == 127 for char in remote)


def read_git_tree(data: bytes) -> None:
    from layerstore.build.fetch.git_objects import parse_commit, parse_tree

    if data.startswith(b"tree "):
        commit = parse_commit(data)
        assert len(commit.tree) == 40
        assert commit.time_s >= 0
        return
    names = [entry.name for entry in parse_tree(data)]
    assert names == sorted(set(names))
    assert not {b"", b".", b"..", b".git"} & set(names)
    assert not any(b"/" in name for name in names)


ALL = (
    Target("tar", read_tar, seeds.archives, seeds.repair_tar, seeds.TAR_TOKENS),
    Target("compression", decompress, seeds.compressed, tokens=seeds.COMPRESSION_TOKENS),
    Target("tree", read_tree, seeds.trees, tokens=seeds.TREE_TOKENS),
    Target("recipe", read_recipe, seeds.recipes),
    Target("pack", read_pack, seeds.packs, seeds.repair_pack),
    Target("bundle", read_bundle, seeds.bundles, seeds.repair_bundle),
    Target("parcel-description", read_parcel_description, seeds.parcel_descriptions,
           seeds.repair_frame),
    Target("pack-table", read_table, seeds.pack_tables,
           lambda data: data[:8] + seeds.repair_frame(data[8:])),
    Target("have-list", read_have_list, seeds.have_lists, seeds.repair_have_list),
    Target("layer-record", read_layer_record, seeds.layer_records),
    Target("names-log", read_names_log, seeds.names_logs, seeds.repair_names_log,
           seeds.JSON_TOKENS),
    Target("store-config", read_store_config, seeds.store_configs, tokens=seeds.TOML_TOKENS),
    *(
        Target(name, run, seeds.documents, tokens=seeds.JSON_TOKENS)
        for name, run in (
            ("manifest", read_manifest), ("index", read_index), ("config", read_config),
            ("stored-config", read_stored_config), ("stored-manifest", read_stored_manifest),
        )
    ),
    Target("reference", read_reference, seeds.references, tokens=(b"/", b":", b"@", b"sha256:"),
           refusals=(LayerstoreError,), max_bytes=600),
    Target("dockerfile", read_dockerfile, seeds.dockerfiles, tokens=seeds.DOCKERFILE_TOKENS,
           refusals=(LayerstoreError,), max_bytes=4096),
    Target("build-checks", check_dockerfile, seeds.dockerfiles, tokens=seeds.DOCKERFILE_TOKENS,
           refusals=(LayerstoreError,), max_bytes=4096),
    Target("native-spec", read_native_spec, seeds.native_specs, tokens=seeds.NATIVE_TOKENS,
           refusals=(LayerstoreError,), max_bytes=4096),
    Target("lock-file", read_lock_file, seeds.lock_files, tokens=seeds.JSON_TOKENS),
    Target("trigger", read_trigger, seeds.triggers, tokens=seeds.DOCKERFILE_TOKENS,
           refusals=(LayerstoreError,), max_bytes=2048),
    Target("expansion", expand, seeds.words, tokens=seeds.DOCKERFILE_TOKENS,
           refusals=(LayerstoreError,), max_bytes=600),
    Target("dockerignore", read_ignore_rules, seeds.ignore_files, tokens=seeds.GLOB_TOKENS,
           refusals=(LayerstoreError,), max_bytes=2048),
    Target("package-databases", list_packages, seeds.package_databases, tokens=seeds.JSON_TOKENS,
           refusals=(), max_bytes=4096),
    Target("rpm-header", read_rpm_header, seeds.rpm_headers, refusals=(), max_bytes=2048),
    Target("source-pattern", read_source_pattern, seeds.patterns, tokens=seeds.GLOB_TOKENS,
           refusals=(LayerstoreError,), max_bytes=600),
    Target("remote-source", read_remote_source, seeds.remote_sources, tokens=seeds.URL_TOKENS,
           refusals=(LayerstoreError,), max_bytes=600),
    Target("git-tree", read_git_tree, seeds.git_trees, tokens=seeds.GIT_TOKENS, max_bytes=2048),
)  # fmt: skip
BY_NAME = {target.name: target for target in ALL}
