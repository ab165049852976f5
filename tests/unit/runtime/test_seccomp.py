"""The seccomp profile as data."""

from __future__ import annotations

import itertools

import pytest

from layerstore.runtime.seccomp import profile


def _names(capabilities: frozenset[str], machine: str) -> list[str]:
    rules = profile(capabilities, machine)["syscalls"]
    assert isinstance(rules, list)
    return list(itertools.chain.from_iterable(rule["names"] for rule in rules))


def test_architectures_are_those_that_have_programs() -> None:
    found = profile(frozenset(), "x86_64")["architectures"]
    assert found == [
        "SCMP_ARCH_X86_64",
        "SCMP_ARCH_X86",
    ]  # x32 costs every start and is used by none
    assert profile(frozenset(), "riscv64")["architectures"] == ["SCMP_ARCH_RISCV64"]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "s390x"])
def test_calls_that_need_a_capability_are_allowed_with_it_alone(machine: str) -> None:
    without, with_it = _names(frozenset(), machine), _names(frozenset({"CAP_SYS_ADMIN"}), machine)
    assert "mount" not in without
    assert {"mount", "clone", "clone3"} <= set(with_it)
    assert "init_module" not in with_it
