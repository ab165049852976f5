# ruff: noqa: F811 -- pytest fixtures are parameters of the same name
"""Steps beside each other: of one build, and of builds in two processes over one store."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from fuse_mount.build_lowers import BuildLowers
from layerstore.build.errors import StepFailedError
from tests.support.build import Builder, add_base, box, builder, needs_runc  # noqa: F401
from tests.support.cli import Cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from layerstore.digest import DiffId

pytestmark = needs_runc

_SECONDS = 120
_LONG = 984_000_000 + os.getpid()
"""Seconds to sleep that no other test's process has in its command line."""

_MOUNT = "--mount=type=cache,id=meeting,target=/m"


def until(condition: str) -> str:
    """Return a command that waits for a condition, and fails where it never comes."""
    return f"n=0; until {condition}; do n=$((n+1)); [ $n -lt 2400 ]; sleep 0.05; done"


def meet(own: str, *others: str) -> str:
    """Return a RUN that ends when all have begun."""
    waits = "".join("; " + until(f"[ -e /m/{other} ]") for other in others)
    return f"RUN {_MOUNT} set -e; touch /m/{own}{waits}"


def test_independent_stages_run_at_the_same_time(box: Builder) -> None:
    result = box.build(
        f"FROM box AS one\n{meet('one', 'two')}; echo 1 > /one\n"
        f"FROM box AS two\n{meet('two', 'one')}; echo 2 > /two\n"
        "FROM scratch\nCOPY --from=one /one /\nCOPY --from=two /two /\n",
        jobs=2,
    )
    assert {"one", "two"} <= box.files(result).keys()


def test_what_one_step_needs_is_shown_while_another_runs(box: Builder) -> None:
    """Roots, bind mounts of stages and of the context come and go beside a running step."""
    box.write({"file": "context"})
    result = box.build(
        f"FROM box AS source\nRUN echo stage > /file\n"
        f"FROM box AS slow\n{meet('slow', 'bound')}\n"
        "FROM box AS quick\n"
        "RUN --mount=from=source,target=/s --mount=target=/c cat /s/file /c/file > /both\n"
        f"{meet('bound')}; cat /both\n"
        "FROM quick\nCOPY --from=slow /etc/passwd /passwd\n",
        jobs=4,
    )
    assert box.files(result)["both"].content == b"stage\ncontext"


def test_commands_lie_over_the_same_that_two_others_made(box: Builder) -> None:
    """What shows it is removed once, when the commands of both stages have ended."""
    result = box.build(
        f"FROM box AS one\nRUN chmod 600 /etc/passwd\n{meet('one', 'two')}; echo 1 > /one\n"
        "RUN echo 1 >> /one\n"
        f"FROM box AS two\nRUN chmod 0600 /etc/passwd\n{meet('two', 'one')}; echo 2 > /two\n"
        "RUN echo 2 >> /two\n"
        "FROM scratch\nCOPY --from=one /one /etc/passwd /\nCOPY --from=two /two /\n",
        jobs=2,
    )
    files = box.files(result)
    assert stat.S_IMODE(files["passwd"].mode) == 0o600
    assert [files[name].content for name in ("one", "two")] == [b"1\n1\n", b"2\n2\n"]


def test_layers_can_be_asked_for_while_what_was_kept_is_let_go(
    box: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server behind a mount that is being made asks, and letting go waits for that mount."""
    answered: list[bool] = []
    real = BuildLowers.drop_upper

    def drop_upper(lowers: BuildLowers, layers: tuple[DiffId, ...]) -> bool:
        asking = threading.Thread(target=lowers._images._changeset, args=(layers[0],), daemon=True)
        asking.start()
        asking.join(60)
        answered.append(not asking.is_alive())
        return real(lowers, layers)

    monkeypatch.setattr(BuildLowers, "drop_upper", drop_upper)
    box.build("FROM box\nRUN echo 1 > /one\nRUN echo 2 > /two\n")
    assert answered
    assert all(answered)


def test_a_failure_kills_what_runs_beside_it(box: Builder) -> None:
    dockerfile = (
        "FROM box AS done\nRUN echo done > /done\n"
        f"FROM box AS slow\nCOPY --from=done /done /\nRUN {_MOUNT} touch /m/up; sleep {_LONG}\n"
        f"FROM box AS fails\nRUN {_MOUNT} {until('[ -e /m/up ]')}; exit 3\n"
        "FROM scratch\nCOPY --from=slow /etc/passwd /a\nCOPY --from=fails /etc/passwd /b\n"
    )
    with pytest.raises(StepFailedError, match="exit status 3") as failure:
        box.build(dockerfile, jobs=2)
    assert "[fails 2/2]" in failure.value.label
    assert not running(f"sleep\x00{_LONG}")
    assert box.ui.failures == [failure.value.label.partition("] ")[2]]
    box.build("FROM box\nRUN echo done > /done\n")
    assert box.ui.ran == []  # what was finished is known


def test_ctrl_c_ends_all_steps(box: Builder) -> None:
    text = (
        f"FROM box AS one\nRUN {_MOUNT} touch /m/one; sleep {_LONG}1\n"
        f"FROM box AS two\nRUN {_MOUNT} touch /m/two; sleep {_LONG}2\n"
        "FROM scratch\nCOPY --from=one / /1\nCOPY --from=two / /2\n"
    )
    with process(box, text, "--jobs", "2") as build:
        said = wait_for_lines(build, "[one 2/2]", "[two 2/2]")
        meeting = meeting_place(box, "one", "two")
        assert meeting, said
        build.send_signal(signal.SIGINT)
        assert build.wait(_SECONDS) == 130
        assert build.stderr is not None
        rest = build.stderr.read()
    assert "Traceback" not in rest
    assert rest.count("CANCELED") == 2
    assert not running(f"sleep\x00{_LONG}1")
    assert not running(f"sleep\x00{_LONG}2")
    assert os.listdir(box.store.paths.tmp) == []


def test_the_image_does_not_depend_on_the_schedule(tmp_path: Path) -> None:
    dockerfile = (
        "FROM box AS a\nRUN echo a > /a\nFROM box AS b\nRUN echo b > /b\nRUN echo c > /c\n"
        "FROM box\nCOPY --link --from=b /c /\nCOPY --from=a /a /\nRUN cat /a /c > /d\n"
    )
    ids = set()
    for jobs in (1, 4):
        directory = tmp_path / str(jobs)
        directory.mkdir()
        made = Builder(directory)
        add_base(made.store)
        ids.add(made.build(dockerfile, jobs=jobs, source_date_epoch=1_600_000_000).image_id)
        made.store.close()
    assert len(ids) == 1


def test_a_step_that_two_builds_want_runs_once(box: Builder) -> None:
    text = f"FROM box\nRUN {_MOUNT} echo ran >> /m/log; touch /m/up; {until('[ -e /m/go ]')}\n"
    with process(box, text) as first:
        wait_for_lines(first, "] RUN")
        place = meeting_place(box, "up")
        with process(box, text) as second:
            wait_for_lines(second, "waiting for another build that runs the same step")
            (place / "go").touch()
            assert first.wait(_SECONDS) == 0
            _, err = second.communicate(timeout=_SECONDS)
            assert second.returncode == 0
    assert "CACHED" in err
    assert (place / "log").read_text() == "ran\n"


@pytest.mark.parametrize("end", ["fails", "is killed"])
def test_who_waited_runs_the_step_when_the_other_build_ends_without_it(
    box: Builder, end: str
) -> None:
    text = (
        f"FROM box\nRUN {_MOUNT} echo ran >> /m/log; touch /m/up; {until('[ -e /m/go ]')}; "
        "[ $(wc -l < /m/log) = 2 ]\n"
    )
    with process(box, text) as first:
        wait_for_lines(first, "] RUN")
        place = meeting_place(box, "up")
        with process(box, text) as second:
            wait_for_lines(second, "waiting for another build that runs the same step")
            if end == "is killed":
                first.kill()
            (place / "go").touch()
            assert first.wait(_SECONDS) == (14 if end == "fails" else -signal.SIGKILL)
            _, err = second.communicate(timeout=_SECONDS)
            assert second.returncode == 0, err
    assert "CACHED" not in err
    assert (place / "log").read_text() == "ran\n" * 2


def test_builds_that_want_each_others_steps_both_end(box: Builder) -> None:
    """Each holds the lock of the step that the other wants next."""
    one, two = (
        f"AS {name}\n{meet(name, other)}; echo {name} >> /m/log\n"
        for name, other in (("one", "two"), ("two", "one"))
    )
    last = "FROM scratch\nCOPY --from={0} /etc/passwd /0\nCOPY --from={1} /etc/passwd /1\n"
    texts = [
        f"FROM box {one}FROM box {two}" + last.format("one", "two"),
        f"FROM box {two}FROM box {one}" + last.format("two", "one"),
    ]
    with contextlib.ExitStack() as stack:
        builds = [stack.enter_context(process(box, text, "--jobs", "1")) for text in texts]
        for build in builds:
            _, err = build.communicate(timeout=_SECONDS)
            assert build.returncode == 0, err
    assert sorted((meeting_place(box) / "log").read_text().split()) == ["one", "two"]


def test_no_cache_filter_runs_the_steps_of_a_stage(box: Builder) -> None:
    text = (
        "FROM box AS base\nRUN echo base\nFROM base AS mid\nRUN echo mid\n"
        "FROM base\nRUN echo last\nCOPY --from=mid /etc/passwd /x\n"
    )
    box.build(text)
    box.build(text)
    assert box.ui.ran == []
    box.build(text, no_cache_stages=["MID"])
    assert box.ui.ran == ["RUN echo mid"]
    box.build(text, no_cache_stages=["stage-2", "0"])
    assert box.ui.ran[:2] == ["RUN echo base", "RUN echo last"]


@contextlib.contextmanager
def process(box: Builder, dockerfile: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    cli = Cli(box.store.root)
    path = box.directory / f"Dockerfile-{os.urandom(4).hex()}"
    path.write_text(dockerfile)
    build = subprocess.Popen(
        cli.command("build", "--progress", "plain", "-f", path, *options, box.context),
        env=cli.interrupted_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with build:
        try:
            yield build
        finally:
            build.kill()


def wait_for_lines(build: subprocess.Popen[str], *parts: str) -> list[str]:
    """Read what a build says until every part was in a line."""
    assert build.stderr is not None
    missing, said = set(parts), []
    while missing:
        line = build.stderr.readline()
        assert line, said
        said.append(line)
        missing = {part for part in missing if part not in line}
    return said


def meeting_place(box: Builder, *names: str) -> Path:
    """Return the cache mount once a RUN has made these files in it."""
    import time

    root = box.store.root / "cache-mounts"
    deadline = time.monotonic() + _SECONDS
    while True:
        for place in root.glob("*/data"):
            if all((place / name).exists() for name in names):
                return place
        assert time.monotonic() < deadline, names
        time.sleep(0.02)


def running(command: str) -> bool:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline") as file:
            if file.read().rstrip("\x00") == command:
                return True
    return False
