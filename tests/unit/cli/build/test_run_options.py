"""The build command's options of RUN: what their words mean, and which mean nothing."""

from __future__ import annotations

import os

import pytest

from layerstore.cli.build.run_options import parse_allow, parse_run_options
from layerstore.cli.parsing.limit_values import parse_extra_hosts, parse_limits, parse_ulimit
from layerstore.errors import InputError
from layerstore.runtime.settings import Limits, RunOptions, Ulimit

NOTHING: dict[str, object] = dict.fromkeys(
    (
        "memory", "memory_swap", "cpus", "cpu_period", "cpu_quota", "cpu_shares", "cpuset_cpus",
        "cpuset_mems", "shm_size", "cgroup_parent",
    )
)  # fmt: skip
NOTHING["ulimits"] = ()


def limits(**words: object) -> Limits:
    return parse_limits(**{**NOTHING, **words})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({}, Limits()),
        ({"memory": "512m"}, Limits(memory=512 << 20)),
        ({"memory": "1g", "memory_swap": "-1"}, Limits(memory=1 << 30, memory_swap=-1)),
        ({"memory": "1g", "memory_swap": "2g"}, Limits(memory=1 << 30, memory_swap=2 << 30)),
        ({"cpus": "0.5"}, Limits(cpu_period=100_000, cpu_quota=50_000)),
        ({"cpu_period": 50_000, "cpu_quota": 2000}, Limits(cpu_period=50_000, cpu_quota=2000)),
        (
            {"cpuset_cpus": "0-2,4", "cpuset_mems": "0"},
            Limits(cpuset_cpus="0-2,4", cpuset_mems="0"),
        ),
        ({"cgroup_parent": "/a/b/"}, Limits(cgroup_parent="a/b")),
        ({"shm_size": "128m", "cpu_shares": 512}, Limits(shm_size=128 << 20, cpu_shares=512)),
        (
            {"ulimits": ["nofile=1:2", "core=0", "nofile=3"]},
            Limits(ulimits=(Ulimit("nofile", 3, 3), Ulimit("core", 0, 0))),
        ),
    ],
)
def test_limits(words: dict[str, object], expected: Limits) -> None:
    assert limits(**words) == expected


@pytest.mark.parametrize(
    "words",
    [
        {"memory": "1m"},
        {"memory": "x"},
        {"memory_swap": "1g"},
        {"memory": "1g", "memory_swap": "512m"},
        {"cpus": "0"},
        {"cpus": str((os.cpu_count() or 1) + 0.01)},
        {"cpus": "nan"},
        {"cpus": "x"},
        {"cpus": "1", "cpu_quota": 5000},
        {"cpu_period": 10},
        {"cpu_quota": -5},
        {"cpu_shares": 1},
        {"cpuset_cpus": "a"},
        {"cpuset_cpus": "0-"},
        {"shm_size": "0"},
        {"cgroup_parent": "../up"},
        {"ulimits": ["nofile"]},
    ],
)
def test_limits_refused(words: dict[str, object]) -> None:
    with pytest.raises(InputError):
        limits(**words)


def test_ulimits() -> None:
    assert parse_ulimit("nofile=1024") == Ulimit("nofile", 1024, 1024)
    assert parse_ulimit("core=0:-1") == Ulimit("core", 0, -1)


@pytest.mark.parametrize(
    "word", ["frob=1", "nofile=", "nofile=2:1", "nofile=-1:5", "nofile=1:2:3", "nofile=-2", "=1"]
)
def test_ulimits_refused(word: str) -> None:
    with pytest.raises(InputError):
        parse_ulimit(word)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("db:192.0.2.1", ("db", "192.0.2.1")),
        ("db=192.0.2.1", ("db", "192.0.2.1")),
        ("db.example:2001:DB8::1", ("db.example", "2001:db8::1")),
        ("db=[::1]", ("db", "::1")),
        ("host.docker.internal:host-gateway", ("host.docker.internal", "127.0.0.1")),
    ],
)
def test_extra_hosts(word: str, expected: tuple[str, str]) -> None:
    assert parse_extra_hosts([word]) == (expected,)


@pytest.mark.parametrize(
    "word", ["", "db", "db:", "db:x", ":1.2.3.4", "a b:1.2.3.4", "a\n:1.2.3.4"]
)
def test_extra_hosts_refused(word: str) -> None:
    with pytest.raises(InputError):
        parse_extra_hosts([word])


def test_entitlements_and_security_options() -> None:
    assert parse_allow(["security.insecure"]) == {"security.insecure"}
    with pytest.raises(InputError, match="is not an entitlement"):
        parse_allow(["insecure"])
    words = ["no-new-privileges", "seccomp=unconfined"]
    options = parse_run_options(Limits(), words, "default", "crun")
    assert options == RunOptions(Limits(), True, False, "crun")
    assert parse_run_options(Limits(), ["no-new-privileges:false"], None, "") == RunOptions()
    for word in ("apparmor=x", "seccomp=/profile.json", "no-new-privileges=maybe"):
        with pytest.raises(InputError, match="is not supported"):
            parse_run_options(Limits(), [word], None, "")
    with pytest.raises(InputError, match="'chroot' is no isolation"):
        parse_run_options(Limits(), [], "chroot", "")


def test_the_runtime_comes_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERSTORE_RUNTIME", "/opt/runc")
    assert parse_run_options(Limits(), [], None, None).runtime == "/opt/runc"
    assert parse_run_options(Limits(), [], None, "crun").runtime == "crun"


def test_there_are_not_more_processors_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert limits(cpus="2").cpu_quota == 200_000
    with pytest.raises(InputError, match=r"--cpus 99 is not between 0.01 and 2.00"):
        limits(cpus="99")
