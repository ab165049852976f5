"""Rules for the whole suite: honest skips, and a private store for every test.

A tier is the set of tests behind one marker (fuse, root, runc, ...). A machine may
lack what a test needs, and then the test skips and says what is missing. A tier in which
everything was skipped has shown nothing, so the run fails and names it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, settings

from tests.crash.rig import campaign

# Images for Python set this. Each of the thousands of commands that tests start would compile its
# modules again, which takes longer than what it is asked for; and pytest its tests, every run.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

TIERS = ("fuse", "root", "runc", "network", "peers")

# Shared, noisy machines: a slow example says nothing about the code. The same examples every
# time: a red run speaks of the change. New ones are looked for with --hypothesis-profile deep.
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
settings.register_profile("deep", deadline=None, max_examples=2000, derandomize=False)
settings.load_profile("ci")


class TierKeeper:
    """Counts, per tier, which tests ran and which were skipped."""

    def __init__(self) -> None:
        self.ran: dict[str, int] = defaultdict(int)
        self.skipped: dict[str, list[str]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        tiers = [tier for tier in TIERS if tier in report.keywords]
        for tier in tiers:
            if report.skipped:
                reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
                self.skipped[tier].append(str(reason))
            elif report.when == "call":
                self.ran[tier] += 1

    def empty_tiers(self) -> dict[str, set[str]]:
        return {t: set(why) for t, why in self.skipped.items() if not self.ran[t]}

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        is_worker = hasattr(session.config, "workerinput")
        if self.empty_tiers() and session.exitstatus == 0 and not is_worker:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for tier, reasons in self.empty_tiers().items():
            terminalreporter.write_line(
                f"tier {tier!r} skipped everything: {'; '.join(sorted(reasons))}", red=True
            )


def pytest_configure(config: pytest.Config) -> None:
    # A shell without job control has what it starts in the background ignore these, and every
    # child would inherit that: tests that interrupt one would wait in vain.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    config.pluginmanager.register(TierKeeper(), "tier-keeper")
    os.environ[campaign.SEED_VARIABLE] = str(campaign.SEED)  # one for all of xdist's workers


def pytest_report_header() -> str:
    return f"fault campaign: {campaign.TIER} tier, seed {campaign.SEED}"


@pytest.fixture(autouse=True)
def _no_store_of_the_host(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test may touch the store of the machine it runs on."""
    monkeypatch.setenv("LAYERSTORE_ROOT", str(tmp_path_factory.getbasetemp() / "unused-store"))
