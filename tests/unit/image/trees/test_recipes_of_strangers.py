"""Recipes that others send are those that are written here, or are no recipes."""

import pytest

from layerstore.image.exchange.reencoding import is_recipe

GOOD = [
    {"codec": "isal", "level": 3, "header": "1f8b08"},
    {"codec": "zlib", "level": 6, "memory": 8, "header": "1f8b"},
    {"codec": "goflate", "level": 6, "method": 1, "header": "1f8b"},
    {"codec": "zstd", "level": 3, "checksum": True, "threads": 0},
    {"codec": "zstd", "level": 22, "checksum": False, "threads": 1, "size": 7},
]
BAD = [
    {},
    {"codec": "lzma"},
    {"codec": ["zstd"]},
    {"codec": "zlib", "level": 6, "header": "1f8b"},
    {"codec": "zlib", "level": 6, "memory": 8},
    {"codec": "zlib", "level": 99, "memory": 8, "header": ""},
    {"codec": "zlib", "level": "6", "memory": 8, "header": ""},
    {"codec": "zlib", "level": True, "memory": 8, "header": ""},
    {"codec": "goflate", "level": 6, "header": "1f8b"},
    {"codec": "goflate", "level": 6, "method": 2, "header": "1f8b"},
    {"codec": "goflate", "level": 0, "method": 1, "header": "1f8b"},
    {"codec": "isal", "level": 3, "header": "xyz"},
    {"codec": "isal", "level": 3, "header": "0" * 200_000},
    {"codec": "isal", "level": 3, "header": "00", "more": 1},
    {"codec": "zstd", "level": 3, "checksum": True, "threads": 500},
    {"codec": "zstd", "level": 3, "checksum": True, "threads": 0, "size": -1},
    {"codec": "zstd", "level": 3, "checksum": True, "threads": 0, "header": "00"},
]


@pytest.mark.parametrize("recipe", GOOD)
def test_these_are(recipe: dict[str, object]) -> None:
    assert is_recipe(recipe)


@pytest.mark.parametrize("recipe", BAD)
def test_these_are_not(recipe: dict[str, object]) -> None:
    assert not is_recipe(recipe)
