"""Control groups that containers see: theirs, if they have limits or may do everything."""

from __future__ import annotations

from typing import Any

import pytest

from layerstore.containers.settings import Settings
from layerstore.containers.spec import Prepared, runtime_config
from layerstore.runtime.settings import Limits
from layerstore.runtime.users import RunUser


def config_of(*, ids: int = 0, unified: bool = False, **asked: Any) -> dict[str, Any]:
    user = RunUser(0, 0, (), "/root")
    prepared = Prepared(
        "/r", user, "/", (), (), "", "x86_64", (1 << 41) - 1, ids=ids, unified=unified
    )
    return runtime_config(Settings(("true",), (), "/", "", **asked), prepared)


def shown(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [mount for mount in config["mounts"] if mount["type"] == "cgroup"]


@pytest.mark.parametrize(
    "asked", [{"pids": 5}, {"limits": Limits(memory=1 << 30)}, {"limits": Limits(cpu_shares=2)}]
)
def test_limits_are_shown(asked: dict[str, Any]) -> None:
    config = config_of(**asked)
    (mount,) = shown(config)
    assert "ro" in mount["options"]
    places = [one["destination"] for one in config["mounts"]]
    assert places.index("/sys") < places.index("/sys/fs/cgroup")
    assert not shown(config_of(ids=65536, **asked))  # of a user namespace, which may mount none


def test_nobody_else_pays_for_it() -> None:
    assert not shown(config_of())
    (mount,) = shown(config_of(privileged=True))
    assert "rw" in mount["options"]


@pytest.mark.parametrize("unified", [False, True])
def test_of_version_2_a_container_sees_no_others(unified: bool) -> None:
    namespaces = config_of(unified=unified, pids=5)["linux"]["namespaces"]
    assert ({"type": "cgroup"} in namespaces) is unified
