"""Orders of versions: those of the documents that define them, and none where none is defined."""

from __future__ import annotations

import pytest

from layerstore.measure.versions import version_key

IN_ORDER = {
    # PEP 440, "Summary of permitted suffixes and relative ordering"
    "pypi": "1.dev0 1.0.dev456 1.0a1 1.0a2.dev456 1.0a12 1.0b1.dev456 1.0b2 1.0rc1 1.0 1.0+abc.5 "
    "1.0.post456.dev34 1.0.post456 1.0.15 1.1.dev1 1!0.1",
    # Semantic Versioning 2.0.0, 11
    "npm": "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 "
    "1.0.0-rc.1 1.0.0 2.0.0 2.1.0 2.1.1 2.10.0",
    "deb": "1.0~rc1 1.0 1.0-1 1.10 1:0.1",
}


@pytest.mark.parametrize("kind", IN_ORDER)
def test_the_order_is_that_of_the_standard(kind):
    keys = [version_key(kind, each) for each in IN_ORDER[kind].split()]
    for place, left in enumerate(keys):
        assert all(left < right for right in keys[place + 1 :])
        assert all(right < left for right in keys[:place])


def test_what_counts_for_nothing_makes_versions_equal():
    assert version_key("npm", "1.2.3+build.5") == version_key("npm", "v1.2.3")
    assert version_key("pypi", "1.0") == version_key("pypi", "1.0.0")


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("apk", "1.0-r0"), ("rpm", "1-1"), ("pypi", "not a version"), ("pypi", ""), ("npm", "1.0"),
        ("npm", "1.0.0-"), ("npm", "٣.0.0"), ("deb", "9" * 1000), ("npm", "1" * 40 + ".0.0"),
    ],
)  # fmt: skip
def test_others_have_none(kind, version):
    assert version_key(kind, version) is None
