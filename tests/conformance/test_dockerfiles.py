"""Builds as users write them, against recorded facts, and against a docker where there is one.

By default every fourth build that runs a command and every second other one; all of them with
``LAYERSTORE_CONFORMANCE_WHOLE=1``, which is what ``make conformance`` sets.

The facts are no opinion of this builder alone: ``LAYERSTORE_BUILDX="docker buildx"`` holds them
against BuildKit. The folder for temporary files must be the same to it.

Capabilities: root (contexts of many owners, containers), a container runtime, amd64; buildx.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import time

import pytest

from tests.conformance.dockerfiles import CASES, DIFFERS, FACTS
from tests.support.build import needs_runc
from tests.support.build_cases import Maker, read_facts, write_case

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="contexts hold files of other owners"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="recorded on amd64"),
    pytest.mark.timeout(600),
]

RECORDED = {fact.pop("case"): fact for fact in map(json.loads, FACTS.read_text().splitlines())}
BUILDX = shlex.split(os.environ.get("LAYERSTORE_BUILDX", ""))
_DAY_S = 86_400
WHOLE = os.environ.get("LAYERSTORE_CONFORMANCE_WHOLE") == "1"


def chosen() -> list[object]:
    running = [name for name in CASES if "RUN" in repr(CASES[name].dockerfile)]
    others = [name for name in CASES if name not in running]
    some = (running, others) if WHOLE else (running[::4], others[::2])
    return [
        *(pytest.param(name, marks=needs_runc) for name in some[0]),
        *(pytest.param(name) for name in some[1]),
    ]


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    made = Maker(tmp_path_factory.mktemp("builds"))
    yield made
    made.close()


@pytest.mark.parametrize("name", chosen())
def test_the_image_is_as_recorded(name, maker):
    assert maker.facts(CASES[name]) == RECORDED[name]


def test_every_build_has_its_facts_and_every_difference_its_build():
    assert set(RECORDED) == set(CASES)
    assert set(DIFFERS) <= set(CASES)


@pytest.mark.peers
@pytest.mark.skipif(not BUILDX, reason="LAYERSTORE_BUILDX names no buildx")
@pytest.mark.parametrize("name", CASES if BUILDX else ["all"])
def test_buildkit_makes_the_same(name, maker, tmp_path):
    case = CASES[name]
    if "AS box" in repr(case.dockerfile):
        pytest.skip("the named context that brings the base would hide the stage")
    context = tmp_path / "context"
    context.mkdir()
    write_case(case, context)
    output = f"type=oci,tar=false,dest={tmp_path}/out,compression=uncompressed"
    command = [
        *(*BUILDX, "build", "--progress=plain", "--network=host", "--no-cache"),
        *("--provenance=false", "--output", f"{output},force-compression=true"),
        *("--build-context", f"box=oci-layout://{maker.base_layout}:latest"),
        *("--file", str(context / case.file), "--target", case.target or ""),
        *(word for pair in case.args.items() for word in ("--build-arg", "=".join(pair))),
    ]
    since = time.time() - _DAY_S  # here-documents come out of BuildKit's cache all the same
    done = subprocess.run([*command, str(context)], capture_output=True, check=False)
    if b"unknown flag: --parents" in done.stderr:
        pytest.skip("that BuildKit has no COPY --parents")
    failed = done.returncode != 0
    made = {"fails": True} if failed else read_facts(tmp_path / "out", since, maker.base)
    assert (made == RECORDED[name]) is (name not in DIFFERS), done.stderr.decode()[-2000:]
