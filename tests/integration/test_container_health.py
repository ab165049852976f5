"""Containers whose health is checked, and that their monitor starts anew, as users run them."""

from __future__ import annotations

from tests.support.build import needs_runc
from tests.support.running import (
    Containers,
    is_running,
    wait_until,
)

pytestmark = needs_runc


def test_restarts_after_failures_and_gives_up(box: Containers) -> None:
    script = "echo x >> /runs; test $(wc -l < /runs) = 3"
    box.ok("run", "--restart", "on-failure:5", "--name", "thrice", "box", "sh", "-c", script)
    assert (box.state("thrice")["ExitCode"], box.state("thrice")["Status"]) == (0, "exited")
    words = ("--restart", "on-failure:2", "--name", "fails", "box", "sh", "-c", "echo x; exit 3")
    assert box("run", *words).code == 3
    assert box.ok("logs", "fails").out == "x\n" * 3


def test_always_is_restarted_until_it_is_stopped(box: Containers) -> None:
    box.ok("run", "-d", "--restart", "always", "--name", "ever", "box", "sh", "-c", "echo x")
    wait_until(lambda: box.ok("logs", "ever").out.count("x") >= 2, "a restart")
    box.ok("stop", "ever")
    assert box.state("ever")["Status"] == "exited"
    assert box.ok("ps", "-q").out == ""


def _health(box: Containers, name: str) -> dict:
    return box.state(name)["Health"]


def test_checks_make_it_healthy_and_unhealthy(box: Containers) -> None:
    words = ("--health-cmd", "echo said; test -e /ok", "--health-interval", "100ms")
    box.ok("run", "-d", "--name", "ill", *words, "--health-retries=2", "box", "sleep", "1000")
    wait_until(lambda: _health(box, "ill")["Status"] == "unhealthy", "an unhealthy one")
    assert "(unhealthy)" in box.ok("ps").out
    assert _health(box, "ill")["FailingStreak"] >= 2
    assert _health(box, "ill")["Log"][-1]["ExitCode"] == 1
    assert _health(box, "ill")["Log"][-1]["Output"] == "said\n"
    box.ok("exec", "ill", "touch", "/ok")
    wait_until(lambda: _health(box, "ill")["Status"] == "healthy", "a healthy one")
    assert "(healthy)" in box.ok("ps").out
    assert box.ok("ps", "-q", "--filter", "health=healthy").lines != []
    assert box.ok("ps", "-q", "--filter", "health=unhealthy").lines == []
    assert len(_health(box, "ill")["Log"]) <= 5
    box.ok("stop", "-t", "0", "ill")
    assert "Health" not in box.state("ill")


def test_a_check_that_takes_too_long_is_killed_and_failures_at_first_do_not_count(
    box: Containers,
) -> None:
    words = ("--health-cmd", "exec sleep 1000", "--health-timeout", "100ms")
    early = ("--health-start-period", "1h", "--health-start-interval", "100ms")
    box.ok("run", "-d", "--name", "slow", *words, *early, "box", "sleep", "1000")
    wait_until(lambda: len(_health(box, "slow")["Log"]) == 5, "five checks")
    health = _health(box, "slow")
    assert (health["Status"], health["FailingStreak"]) == ("starting", 0)
    assert "(health: starting)" in box.ok("ps").out
    assert {check["ExitCode"] for check in health["Log"]} == {-1}
    assert health["Log"][-1]["Output"] == "Health check exceeded timeout (0.1s)"
    names = "for file in /proc/[0-9]*/comm; do read name < $file && echo $name; done; true"

    def sleepers() -> int:
        return box.ok("exec", "slow", "sh", "-c", names).lines.count("sleep")

    # The command, and the check that runs now; one more for as long as nobody has reaped it.
    wait_until(lambda: 1 <= sleepers() <= 2, "the end of all checks but one")


def test_much_output_of_a_check_is_cut_and_one_without_a_program_fails(box: Containers) -> None:
    words = ("--health-interval", "100ms", "--health-retries", "1")
    box.ok("run", "-d", "--name", "loud", "--health-cmd", "yes | head -c 100000", *words, "box",
           "sleep", "1000")  # fmt: skip
    wait_until(lambda: _health(box, "loud")["Status"] == "healthy", "a healthy one")
    assert len(_health(box, "loud")["Log"][-1]["Output"]) == 4096
    box.ok("run", "-d", "--name", "not", "--health-cmd", "/no/such", *words, "box", "sleep", "1000")
    wait_until(lambda: _health(box, "not")["Status"] == "unhealthy", "an unhealthy one")


def test_a_check_after_a_year_and_one_that_only_prints_keep_no_monitor(box: Containers) -> None:
    box.ok("run", "-d", "--name", "year", "--health-cmd", "true", "--health-interval", "8760h",
           "box", "sleep", "1000")  # fmt: skip
    words = ("--health-cmd", "yes & yes & yes", "--health-timeout", "300ms")
    more = ("--health-interval", "100ms", "--health-retries", "1")
    box.ok("run", "-d", "--name", "prints", *words, *more, "box", "sleep", "1000")
    wait_until(lambda: _health(box, "prints")["Status"] == "unhealthy", "the end of its time")
    for name in ("year", "prints"):  # a container goes on without its monitor: ask for that
        assert is_running(box.state(name)["ConmonPid"])
    assert _health(box, "year")["Status"] == "starting"


def test_a_check_begins_anew_when_it_is_restarted(box: Containers) -> None:
    words = ("--health-cmd", "true", "--health-interval", "100ms", "--restart", "always")
    script = "[ -e /on ] && exec sleep 1000; until [ -e /on ]; do sleep 0.1; done; exit 3"
    box.ok("run", "-d", "--name", "again", *words, "box", "sh", "-c", script)
    wait_until(lambda: _health(box, "again")["Status"] == "healthy", "a healthy one")
    box.ok("exec", "again", "touch", "/on")
    wait_until(lambda: '"RestartCount": 1' in box.ok("inspect", "again").out, "its restart")
    wait_until(lambda: box.state("again").get("Health", {}).get("Status") == "healthy", "another")


def test_one_that_goes_at_its_end_is_not_restarted(box: Containers) -> None:
    box.ok("run", "-d", "--rm", "--name", "brief", "box", "sleep", "1000")
    assert "is removed at its end" in box.fails(4, "restart", "brief")
    assert box.state("brief")["Running"]
