"""The Dockerfile conformance kit: what docker and BuildKit made of some 235 small builds.

The kit is no part of this project. It is looked for where ``LAYERSTORE_CONFORMANCE`` says, else in
``shared/conformance`` beside the checkout. By default every fifth case of its larger suite runs;
all of it with ``LAYERSTORE_CONFORMANCE_WHOLE=1``, which is what ``make conformance`` sets.

Capabilities: root (contexts of many owners, containers), a container runtime, FUSE, busybox-static.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.build import needs_runc
from tests.support.cli import Cli
from tests.support.debian_base import debian_base_tar

PROJECT = Path(__file__).parents[2]
REFERENCE = PROJECT / "docs/reference/dockerfile.md"
QUICK_CASES = "??[05]-*"

KNOWN = {
    "052-copy-multiple-missing-file-with-nomatch-on-glob",
    "055-copy-integration1",
    "159-replace-symlink-with-directory",
    "160-replace-directory-with-symlink",
    "161-replace-symlink-with-directory-subdir",
    "162-replace-directory-with-symlink-subdir",
    "top__Dockerfile.envargconflict",
}
"""Cases that differ, each with its reason in docs/reference/dockerfile.md, "Conformance"."""

pytestmark = [*needs_runc, pytest.mark.timeout(1800)]


def kit_folder() -> Path:
    named = os.environ.get("LAYERSTORE_CONFORMANCE")
    folder = Path(named) if named else PROJECT.parent / "shared/conformance"
    if not (folder / "score").is_file():
        pytest.skip(f"no conformance kit in {folder}; name it in LAYERSTORE_CONFORMANCE")
    return folder


def make_bases(kit: Path, folder: Path) -> None:
    if shutil.which("busybox") is None:
        pytest.skip("the kit's bases are made from busybox-static")
    command = [sys.executable, kit / "make-bases", folder, "--debian-tar", debian_base_tar()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def import_bases(kit: Path, folder: Path, cli: Cli) -> None:
    told = json.loads((kit / "bases.json").read_text())
    for kind, base in told["kinds"].items():
        names = [name for name, its_kind in told["images"].items() if its_kind == kind]
        changes = [f"ENV {pair}" for pair in told["env"]] + [f"CMD {json.dumps(base['cmd'])}"]
        tags = [word for name in names for word in ("-t", name)]
        cli.ok("import", folder / f"{kind}.tar", *tags, *(w for c in changes for w in ("-c", c)))


def builder(cli: Cli) -> str:
    """Return the kit's command line: no cache, because a cached layer keeps its files' times."""
    python = shlex.quote(sys.executable)
    ours = f"{python} -m layerstore --store {shlex.quote(str(cli.store))}"
    return (
        f"{ours} build --no-cache -q -f {{dockerfile}} -t {{tag}} {{build_args}} {{target}}"
        f" {{context}}"
        f" && {ours} save {{tag}} -o {{oci}} --compression none && {ours} rm {{tag}}"
    )


def test_the_kit_agrees_but_for_the_known_cases(tmp_path):
    kit = kit_folder()
    bases = tmp_path / "bases"
    make_bases(kit, bases)
    cli = Cli(tmp_path / "store")
    import_bases(kit, bases, cli)
    whole = os.environ.get("LAYERSTORE_CONFORMANCE_WHOLE") == "1"
    chosen = [] if whole else ["--case", QUICK_CASES]
    command = [
        *(sys.executable, kit / "score", *chosen, "--bases", bases, "--jobs", "2"),
        *("--json", tmp_path / "result.json", "--builder", builder(cli)),
    ]
    done = subprocess.run(
        command, cwd=PROJECT, env=cli.environment(), capture_output=True, text=True, check=False
    )
    print(done.stdout)
    results = json.loads((tmp_path / "result.json").read_text())
    assert len(results) > 30
    failed = {each["case"] for each in results if each["result"] != "ok"}
    assert failed == KNOWN & {each["case"] for each in results}, done.stdout


def test_each_known_case_has_its_reason_in_the_reference():
    text = REFERENCE.read_text()
    section = text[text.index("## Conformance") :]
    assert [case for case in sorted(KNOWN) if f"`{case}`" not in section] == []
