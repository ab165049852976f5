"""The bundle in docs/format/bundle.md is one that the code reads, and its tables are the code's."""

import io
import re
from pathlib import Path

import pytest

from layerstore.errors import FormatError, UnsupportedVersionError
from layerstore.formats import bundle, have_list
from layerstore.formats.have_list import decode_have_list, encode_have_list
from layerstore.image.transfer.loading import load_bundle
from layerstore.store.store import Store

PAGE = (Path(__file__).parents[3] / "docs" / "format" / "bundle.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_example_is_read(tmp_path: Path) -> None:
    lines = re.findall(r"^[0-9a-f]{8}: ((?:[0-9a-f]{2} )+) ", PAGE, re.MULTILINE)
    data = bytes.fromhex("".join(lines))
    with Store.open(tmp_path / "store", create=True) as store:
        assert load_bundle(store, io.BytesIO(data).read).images == ()


@pytest.mark.parametrize(
    ("title", "size"),
    [("Header", bundle.HEADER.size), ("Records", bundle.RECORD.size)],
)
def test_the_tables_are_the_structs(title: str, size: int) -> None:
    rows = re.findall(r"^\| (\d+) \| (\d+) \|", section(title), re.MULTILINE)
    end = 0
    for offset, length in rows:
        assert int(offset) == end
        end += int(length)
    assert end == size


def test_the_keys_are_those_of_the_description() -> None:
    keys = re.findall(r"^\| `(\w+)` \|", section("Description"), re.MULTILINE)
    assert tuple(keys) == bundle.Description.__struct_fields__


def test_limits_are_those_of_the_code() -> None:
    for limit in (bundle.IMAGES_MAX, bundle.LAYERS_MAX, bundle.NAMES_MAX):
        assert f"{limit:,}" in section("Description")
    assert f"{have_list.IDS_MAX:,}" in section("Have-lists")
    described, packed = bundle.DESCRIPTION_MAX_BYTES >> 20, bundle.PACK_MAX_BYTES >> 20
    assert f"at most {described} MiB, {packed} MiB and 32" in section("Records")


def test_a_list_gives_back_its_ids() -> None:
    ids = [bytes((n,)) * 32 for n in (7, 3, 3)]
    assert decode_have_list(encode_have_list(ids)) == {bytes((n,)) * 16 for n in (3, 7)}


def test_other_versions_are_refused() -> None:
    listed = encode_have_list([])
    newer = listed[:8] + b"\2" + listed[9:-32]
    with pytest.raises(FormatError, match="checksum"):
        decode_have_list(newer + listed[-32:])
    from blake3 import blake3

    with pytest.raises(UnsupportedVersionError):
        decode_have_list(newer + blake3(newer).digest())
