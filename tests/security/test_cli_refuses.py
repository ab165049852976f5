"""One input of each verdict through the command itself: words, exit code, nothing left."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.security.corpus.archives import ALL
from tests.support.cli import Cli

if TYPE_CHECKING:
    from pathlib import Path

INTEGRITY, UNSAFE = 10, 11


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("A01 parent", UNSAFE), ("B26 parent", UNSAFE), ("C02 middle", INTEGRITY),
        ("C24 garbage", INTEGRITY), ("D11 char", UNSAFE), ("E01 short", INTEGRITY),
        ("C38 1 MiB and 1", UNSAFE), ("A21 depth of 2,000", UNSAFE),
    ],
)  # fmt: skip
def test_import_says_what_is_wrong(tmp_path: Path, name: str, code: int) -> None:
    cli = Cli(tmp_path / "store")
    archive = tmp_path / "evil.tar"
    archive.write_bytes(ALL.get(name) or _large(name))
    said = cli.fails(code, "import", archive, "-t", "evil:1")
    assert "at offset" in said
    assert said.isascii()
    assert cli.ok("images", "--json").json() == []
    assert os.listdir(tmp_path / "store" / "tmp") == []


def _large(name: str) -> bytes:
    from tests.security.corpus.tar_headers import MIB
    from tests.support.tars import END, member

    assert name.startswith("C38")
    return member(b"x", b"1" * (MIB + 1), typeflag=b"x") + END


def test_a_store_that_others_may_write_is_refused_with_the_remedy(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "store")
    (tmp_path / "a").mkdir()
    cli.ok("import", tmp_path / "a", "-t", "a:1")
    (tmp_path / "store").chmod(0o777)
    said = cli.fails(UNSAFE, "check")
    assert f"hint: chmod 700 {tmp_path / 'store'}" in said
    (tmp_path / "store").chmod(0o700)
    cli.ok("check")
