"""Secrets are where steps ask for them, and nowhere in the store, the image or what builds say.

The whole store is searched: every file as it is, every chunk as it was before compression, every
row of the catalog; for each secret as it is, in base64 at every alignment, in hexadecimal,
and for digests of it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import sqlite3
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import blake3
import pytest
import zstandard

from layerstore.store.store import Store
from tests.support.build import add_base, needs_runc
from tests.support.cli import Cli

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = needs_runc

DOCKERFILE = """\
FROM box
ENV COLOUR=control-value
RUN --mount=type=secret,id=file set -x; export -p > /dev/null; sha256sum /run/secrets/file | wc -c
RUN --mount=type=secret,id=file,target=/etc/key,uid=5,gid=6,mode=0440 \\
    --mount=type=secret,id=var \\
    test "$(stat -c %u:%g:%a /etc/key)" = 5:6:440 && cp /etc/key /dev/shm/ && echo made > /made
RUN --mount=type=secret,id=var,env=TOKEN --mount=type=secret,id=binary,target=/b,required \\
    test -n "$TOKEN" && cp /b /tmp/b && rm /tmp/b && cat /b > /dev/null
RUN --mount=type=tmpfs,target=/t --mount=type=secret,id=file cp /run/secrets/file /t/copy
RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent
"""
FAILING = DOCKERFILE + (
    "RUN --mount=type=secret,id=file --mount=type=secret,id=var,env=TOKEN "
    "set -x; cp /run/secrets/file /kept; export -p > /exported; exit 7\n"
)


class Secrets:
    """Values that nothing else has, and the options that name them."""

    def __init__(self, directory: Path) -> None:
        self.values = {
            "file": b"canary-" + os.urandom(16).hex().encode() + b"\n",
            "var": b"canary-" + os.urandom(16).hex().encode(),
            "binary": os.urandom(24),
        }
        self.options: list[str] = []
        for name in ("file", "binary"):
            (directory / name).write_bytes(self.values[name])
            self.options += ["--secret", f"id={name},src={directory / name}"]
        self.options += ["--secret", "id=var,env=SECRET_VARIABLE"]
        self.env = {"SECRET_VARIABLE": self.values["var"].decode()}

    def forms(self) -> dict[str, bytes]:
        """Return every form of every value by a name for it."""
        found: dict[str, bytes] = {}
        for name, value in self.values.items():
            plain = value.strip() if name != "binary" else value
            found[f"{name} plain"] = plain
            found[f"{name} hex"] = plain.hex().encode()
            for shift in range(3):  # the characters at both ends depend on the neighbours
                encoded = base64.b64encode(b"\0" * shift + plain)
                found[f"{name} base64+{shift}"] = encoded[
                    4 if shift else 0 : len(encoded) // 4 * 4 - 4
                ]
            for digest in (hashlib.sha256(value), hashlib.sha256(plain), blake3.blake3(value)):
                found[f"{name} digest {digest.hexdigest()[:4]}"] = digest.digest()
                found[f"{name} digest in hex {digest.hexdigest()[:4]}"] = (
                    digest.hexdigest().encode()
                )
        return found


def everything_in(root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield what a store holds, by names for it."""
    for folder, folders, names in os.walk(root):
        for name in (*names, *folders):
            path = Path(folder, name)
            yield f"the name {path}", os.fsencode(name)
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                yield str(path), data
                yield f"{path}, decompressed", _decompressed(data)
    with sqlite3.connect(f"file:{root / 'catalog.sqlite'}?mode=ro", uri=True) as catalog:
        catalog.text_factory = bytes
        tables = [
            row[0].decode()
            for row in catalog.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        ]
        for table in tables:
            for row in catalog.execute(f'SELECT * FROM "{table}"'):
                yield (
                    f"a row of {table}",
                    b"\0".join(
                        cell if isinstance(cell, bytes) else str(cell).encode() for cell in row
                    ),
                )
    catalog.close()
    with Store.open(root) as store:
        for row in store.catalog.chunk_rows():
            yield f"chunk {row.chunk_id.hex()}", store.read_chunk(row.chunk_id)


def _decompressed(data: bytes) -> bytes:
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return (
            zstandard.ZstdDecompressor()
            .stream_reader(io.BytesIO(data), read_across_frames=True)
            .read()
        )
    if data.startswith(b"\x1f\x8b"):
        return gzip.decompress(data)
    if data[:1] == b"\x78":
        try:
            return zlib.decompress(data)
        except zlib.error:
            return b""
    return b""


def search(root: Path, said: str, secrets: Secrets) -> None:
    """Fail if any form of a secret is anywhere; and if the search would not have found it."""
    forms = secrets.forms()
    controls = {"control-value", "made"}
    for where, data in (*everything_in(root), ("what was said", said.encode())):
        for form, needle in forms.items():
            assert needle not in data, f"{form} in {where}"
        controls -= {control for control in controls if control.encode() in data}
    assert not controls


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    with Store.open(tmp_path / "store", create=True) as store:
        add_base(store)
    (tmp_path / "context").mkdir()
    return Cli(tmp_path / "store")


@pytest.mark.parametrize("progress", ["plain", "json"])
def test_nowhere_in_the_store_and_in_nothing_that_is_said(
    cli: Cli, tmp_path: Path, progress: str
) -> None:
    secrets = Secrets(tmp_path)
    said = ""
    for text, code in ((DOCKERFILE, 0), (FAILING, 14), (DOCKERFILE, 0)):
        (tmp_path / "context" / "Dockerfile").write_text(text)
        result = cli(
            "build", "--progress", progress, "-t", "made", *secrets.options,
            "--metadata-file", tmp_path / "metadata", "--explain", tmp_path / "context",
            env=secrets.env,
        )  # fmt: skip
        assert result.code == code, result.err
        said += result.out + result.err
    said += (tmp_path / "metadata").read_text() + cli("images", "-v").out
    search(cli.store, said, secrets)


def test_another_secret_is_no_other_step(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "context" / "Dockerfile").write_text(DOCKERFILE)
    outcomes = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        secrets = Secrets(tmp_path / str(number))
        done = cli("build", "--json", *secrets.options, tmp_path / "context", env=secrets.env)
        outcomes.append(done.json())
    first, second = outcomes
    assert second["id"] == first["id"]  # type: ignore[index]
    assert second["cached"] == second["steps"]  # type: ignore[index]


def test_a_required_secret_that_is_absent_says_so_without_values(cli: Cli, tmp_path: Path) -> None:
    secrets = Secrets(tmp_path)
    (tmp_path / "context" / "Dockerfile").write_text(DOCKERFILE)
    done = cli("build", *secrets.options[:2], tmp_path / "context")
    assert done.code == 14
    assert "needs the secret 'binary'" in done.err
    assert "--secret id=binary,src=FILE" in done.err
