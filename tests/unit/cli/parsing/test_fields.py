"""Words that hold several things."""

from __future__ import annotations

import pytest

from layerstore.cli.build.cache_options import parse_to
from layerstore.cli.parsing.fields import parse_fields
from layerstore.errors import InputError


@pytest.mark.parametrize(
    ("word", "fields"),
    [
        ("type=oci,dest=x", {"type": "oci", "dest": "x"}),
        ("Type=oci, DEST=x", {"type": "oci", "dest": "x"}),
        ('type=oci,"dest=a,b"', {"type": "oci", "dest": "a,b"}),
        ("a=", {"a": ""}),
        ("a=b=c", {"a": "b=c"}),
        ("dest=a\nb", {"dest": "a\nb"}),
    ],
)
def test_parts(word: str, fields: dict[str, str]) -> None:
    assert parse_fields(word, "it", "hint") == fields


@pytest.mark.parametrize("word", ["", "a", "a=1,", "=x", "a=1,A=2", '"a=1"x', '"a=1\nb"c'])
def test_what_is_none(word: str) -> None:
    with pytest.raises(InputError, match=r"is not (a part of )?it"):
        parse_fields(word, "it", "hint")


def test_a_cache_in_a_directory_with_a_strange_name(tmp_path) -> None:
    (export,) = parse_to([f"type=local,dest={tmp_path}/a\nb"], str(tmp_path / "store"))
    assert export.location == f"{tmp_path}/a\nb"
    with pytest.raises(InputError, match="is not a build cache"):
        parse_to(['type=local,"dest=a\nb'], str(tmp_path / "store"))
