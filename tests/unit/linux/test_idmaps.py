"""Maps of ids: what is typed, what is refused, and the user namespaces that stand for them."""

from __future__ import annotations

import os

import pytest

from layerstore.errors import InputError, MountError
from layerstore.linux.idmaps import (
    IdMapping,
    map_of_user_namespace,
    parse_id_map,
    parse_id_mapping,
    user_namespace_of,
    with_stand_in_for_root,
)
from tests.support.forked import problem_in_child

needs_root = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mapping the ids of others takes root"),
]


@pytest.mark.parametrize(
    ("text", "mapping"),
    [
        ("0:100000:65536", IdMapping("b", 0, 100_000, 65_536)),
        ("u:1000:0:1", IdMapping("u", 1000, 0, 1)),
        ("g:4294967294:5:1", IdMapping("g", 4_294_967_294, 5, 1)),
    ],
)
def test_what_is_typed(text: str, mapping: IdMapping) -> None:
    assert parse_id_mapping(text) == mapping
    assert parse_id_mapping(str(mapping)) == mapping


@pytest.mark.parametrize(
    "text",
    ["", "0", "0:1", "0:1:0", "x:0:1:2", "0:1:2:3", "0:-1:5", "0:4294967295:1", "٣:0:1", "0: 1:2",
     "0:1:99999999999", "1:4294967290:10"],
)  # fmt: skip
def test_what_is_none(text: str) -> None:
    with pytest.raises(InputError, match="ids"):
        parse_id_mapping(text)


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["u:0:1000:5"], "leaves out groups"),
        (["g:0:1000:5"], "leaves out users"),
        (["0:1000:5", "4:2000:5"], "the container's users from 4"),
        (["0:1000:5", "g:10:1004:5"], "the host's groups from 1004"),
        ([f"{n}:{n}:1" for n in range(341)], "341 ranges"),
    ],
)
def test_maps_that_contradict_themselves(texts: list[str], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        parse_id_map(texts)


def test_the_hosts_root_gets_an_id_that_is_free() -> None:
    added = with_stand_in_for_root(parse_id_map(["0:1000:5"]))[1:]
    assert added == (IdMapping("u", 4_294_967_294, 0, 1), IdMapping("g", 4_294_967_294, 0, 1))
    taken = parse_id_map(["4294967293:1000:2", "0:5000:10"])
    assert with_stand_in_for_root(taken)[-1] == IdMapping("g", 4_294_967_292, 0, 1)
    assert with_stand_in_for_root(parse_id_map(["7:0:1"])) == parse_id_map(["7:0:1"])


class TestNamespaces:
    pytestmark = needs_root

    @pytest.mark.parametrize("texts", [["0:100000:65536"], ["u:0:5:1", "g:3:9:2", "g:10:50:7"]])
    def test_a_namespace_has_the_map_it_was_made_with(self, texts: list[str]) -> None:
        mappings = parse_id_map(texts)

        def work() -> None:  # in a process that has no children yet
            with user_namespace_of(mappings) as namespace:
                found = map_of_user_namespace(f"/proc/self/fd/{namespace}")
            for kind in "ug":
                wanted = [m._replace(kind=kind) for m in mappings if m.kind in (kind, "b")]
                assert [m for m in found if m.kind == kind] == wanted
            with pytest.raises(ChildProcessError):  # no child is left to wait for
                os.waitpid(-1, os.WNOHANG)

        assert problem_in_child(work) == ""

    def test_what_is_no_user_namespace(self, tmp_path) -> None:
        for path in (tmp_path, tmp_path / "absent", "/proc/self/ns/mnt", "/dev/null"):
            with pytest.raises(InputError, match=str(path)):
                map_of_user_namespace(str(path))

    def test_one_without_a_map(self) -> None:
        with user_namespace_of(()) as namespace, pytest.raises(InputError, match="no ids"):
            map_of_user_namespace(f"/proc/self/fd/{namespace}")

    def test_the_kernels_refusal_is_told(self) -> None:
        twice = (IdMapping("b", 0, 0, 5), IdMapping("b", 0, 10, 5))
        with pytest.raises(MountError, match="could not map ids"), user_namespace_of(twice):
            pass
