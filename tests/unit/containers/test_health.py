"""What check a container is to have, by its image and by the user's words."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from layerstore.cli import fast
from layerstore.cli.container.options import settings_of
from layerstore.containers import monitor_health
from layerstore.containers.image_config import image_defaults
from layerstore.containers.settings import HealthCheck, settings_from_json
from layerstore.errors import FormatError, InputError

if TYPE_CHECKING:
    from pathlib import Path

SECOND = 10**9


def check_of(*words: str, image: object = None, shell: object = None) -> HealthCheck | None:
    config = {"Cmd": ["true"], "Healthcheck": image, "Shell": shell}
    defaults = image_defaults(json.dumps({"config": config}).encode())
    options = fast.parse("run", [*words, "image"])
    return settings_of(options, defaults, ()).health


def test_none_is_none() -> None:
    assert check_of() is None
    assert check_of(image={}) is None
    assert check_of(image={"Test": []}) is None
    assert check_of(image={"Test": ["NONE"]}) is None
    assert check_of("--health-interval", "1s") is None


def test_the_images() -> None:
    image = {
        "Test": ["CMD-SHELL", "curl x"], "Interval": 5 * SECOND, "Timeout": 2 * SECOND,
        "StartPeriod": SECOND // 2, "Retries": 7,
    }  # fmt: skip
    assert check_of(image=image) == HealthCheck(("/bin/sh", "-c", "curl x"), 5, 2, 7, 0.5, 5)
    assert check_of(image={"Test": ["CMD", "a", "b"]}) == HealthCheck(("a", "b"), 30, 30, 3, 0, 5)
    of_shell = check_of(image=image, shell=["/bin/bash", "-c"])
    assert of_shell is not None
    assert of_shell.args == ("/bin/bash", "-c", "curl x")


def test_numbers_beyond_all_bounds_are_the_longest() -> None:
    image = {"Test": ["CMD", "a"], "Interval": 10**400, "Retries": 10**400}
    found = check_of(image=image)
    assert found is not None
    assert (found.interval_s, found.retries) == (365 * 86400, (1 << 63) - 1)


def test_the_users_words_come_first() -> None:
    image = {"Test": ["CMD", "a"], "Interval": 5 * SECOND}
    assert check_of("--no-healthcheck", image=image) is None
    assert check_of("--health-cmd=none", image=image) is None
    words = ("--health-cmd", "x y", "--health-timeout=1m30s", "--health-retries", "1")
    assert check_of(*words, image=image) == HealthCheck(("/bin/sh", "-c", "x y"), 5, 90, 1, 0, 5)
    words = ("--health-interval", "250ms", "--health-start-period", "2h")
    assert check_of(*words, image=image) == HealthCheck(("a",), 0.25, 30, 3, 7200, 5)


@pytest.mark.parametrize(
    "words",
    [
        ("--health-interval", "5"),
        ("--health-interval", "1us"),
        ("--health-timeout", "9000h"),
        ("--health-start-period", "s"),
        ("--health-retries", "-1"),
        ("--no-healthcheck", "--health-cmd", "x"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(InputError):
        check_of(*words, image={"Test": ["CMD", "a"]})


@pytest.mark.parametrize("image", [{"Test": [1]}, {"Test": ["CMD", "a"], "Retries": "x"}, ["a"]])
def test_an_image_that_is_damaged_is_told(image: object) -> None:
    with pytest.raises(FormatError):
        check_of(image=image)


def test_times_of_an_image_are_bounded() -> None:
    check = check_of(image={"Test": ["CMD", "a"], "Interval": 1, "Timeout": 10**30})
    assert check is not None
    assert (check.interval_s, check.timeout_s) == (0.001, 365 * 86400)


def test_records_keep_it_and_older_ones_have_none() -> None:
    options = fast.parse("run", ["--health-cmd", "x", "image"])
    settings = settings_of(options, image_defaults(b'{"config": {"Cmd": ["true"]}}'), ())
    plain = json.loads(json.dumps(settings._asdict()))
    assert settings_from_json(dict(plain)) == settings
    del plain["health"]
    assert settings_from_json(plain) == settings._replace(health=None)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_check_that_found_its_container_paused_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, frozen: bool
) -> None:
    """A runtime refuses to start anything in what was paused while it began."""
    told = {
        "process": "", "state": str(tmp_path / "state"), "pid_file": str(tmp_path / "pid"),
        "interval": 0, "timeout": 30, "start_period": 0, "start_interval": 0, "retries": 1,
    }  # fmt: skip
    spec = {
        "runtime": "/bin/false", "runtime_options": [], "container": "c", "cgroup": "/c",
        "environ": {},
    }  # fmt: skip
    monkeypatch.setattr(monitor_health, "is_frozen", lambda _: False)
    health = monitor_health.Health(told, spec)
    health.step({})
    monkeypatch.setattr(monitor_health, "is_frozen", lambda _: frozen)
    pid, status = os.waitpid(health._pid, 0)
    health.step({pid: status})
    found = json.loads((tmp_path / "state").read_text())
    assert (found["status"], found["failures"]) == (("starting", 0) if frozen else ("unhealthy", 1))
