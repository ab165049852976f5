"""What config.toml says is the same whether it is known to the byte or read as TOML."""

from __future__ import annotations

from itertools import combinations

import pytest

from layerstore.chunking.cutter import DEFAULT_CUTS
from layerstore.errors import FormatError
from layerstore.store import config
from layerstore.store.config import (
    INDEXES,
    KNOWN_READ_ONLY_COMPATIBLE,
    ORIGINS,
    SHARED_GROUP,
    new_config,
    parse_config,
    with_feature,
)

FEATURES = sorted(KNOWN_READ_ONLY_COMPATIBLE)
SETS = [each for count in range(len(FEATURES) + 1) for each in combinations(FEATURES, count)]


@pytest.mark.parametrize("features", SETS)
def test_what_we_write_means_what_toml_says(
    features: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = new_config()
    for feature in features:
        data = with_feature(data, feature)
    assert config._features_as_written(data) == set(features)
    known = parse_config(data)
    assert known == (
        config.FORMAT_VERSION, True, DEFAULT_CUTS,
        SHARED_GROUP in features, ORIGINS in features, INDEXES in features,
    )  # fmt: skip
    monkeypatch.setattr(config, "_features_as_written", lambda _: None)
    assert parse_config(data) == known


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"only_compatible = []", b'only_compatible = ["nosuch"]'),
        (b"only_compatible = []", b'only_compatible = [ "origins" ]'),
        (b"only_compatible = []", b'only_compatible = ["origins","indexes"]'),
        (b"only_compatible = []", b'only_compatible = ["origins"'),
        (b"\nincompatible = []", b'\nincompatible = ["nosuch"]'),
        (b"average_bytes = ", b"average_bytes =  "),
        (b"format = 2", b"format = 1"),
        (b"# A layerstore store.", b"# A store."),
    ],
)
def test_anything_else_is_read_as_toml(old: bytes, new: bytes) -> None:
    data = new_config()
    assert data.count(old) == 1
    assert config._features_as_written(data.replace(old, new)) is None


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_a_part_of_one_is_not_taken_for_it(cut: int) -> None:
    data = new_config()[:cut]
    assert config._features_as_written(data) is None
    if cut >= 0:
        with pytest.raises(FormatError):
            parse_config(data)
