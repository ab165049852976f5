"""Labels of security modules: what the host has, what was asked for, what the runtime is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from layerstore.containers.settings import Settings
from layerstore.containers.spec import Prepared, runtime_config
from layerstore.runtime.apparmor import default_profile
from layerstore.runtime.users import RunUser

if TYPE_CHECKING:
    from pathlib import Path


def process_of(profile: str | None, **asked: Any) -> dict[str, Any]:
    settings = Settings(("true",), (), "/", "", **asked)
    user = RunUser(0, 0, (), "/root")
    prepared = Prepared("/r", user, "/", (), (), "", "x86_64", (1 << 41) - 1, apparmor=profile)
    process = runtime_config(settings, prepared)["process"]
    assert isinstance(process, dict)
    return process


@pytest.mark.parametrize(
    ("host", "asked", "told"),
    [
        (None, {}, None),
        ("", {}, None),
        ("docker-default", {}, "docker-default"),
        ("docker-default", {"privileged": True}, None),
        ("docker-default", {"apparmor": "mine"}, "mine"),
        ("docker-default", {"apparmor": "unconfined"}, "unconfined"),
        (None, {"apparmor": "unconfined"}, None),
        (None, {"apparmor": "mine"}, "mine"),  # the runtime says that it cannot
    ],
)
def test_profiles(host: str | None, asked: dict[str, Any], told: str | None) -> None:
    assert process_of(host, **asked).get("apparmorProfile") == told


def test_a_label_of_selinux_is_passed_on() -> None:
    label = "system_u:system_r:container_t:s0:c1,c2"
    assert process_of(None, selinux=label)["selinuxLabel"] == label
    assert "selinuxLabel" not in process_of(None)


@pytest.mark.parametrize(
    ("enabled", "loaded", "found"),
    [
        ("Y\n", "/usr/bin/man (enforce)\ndocker-default (enforce)\n", "docker-default"),
        ("Y\n", "containers-default-0.5 (enforce)\nx (y) (complain)\n", "containers-default-0.5"),
        ("Y\n", "docker-default-not (enforce)\n", ""),
        ("Y\n", None, ""),
        ("N\n", "docker-default (enforce)\n", None),
        (None, None, None),
    ],
)
def test_the_hosts_profile(
    tmp_path: Path, enabled: str | None, loaded: str | None, found: str | None
) -> None:
    for name, text in (("enabled", enabled), ("profiles", loaded)):
        if text is not None:
            (tmp_path / name).write_text(text)
    assert default_profile(f"{tmp_path}/enabled", f"{tmp_path}/profiles") == found
