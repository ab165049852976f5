"""Containers as users run them: the real command line, the real runtime, docker's exit codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from layerstore.cli import fast
from layerstore.containers import volume_users
from tests.support.build import needs_runc
from tests.support.running import (
    Containers,
    Terminal,
    check_signals_arrive,
    wait_until,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = needs_runc


def test_streams_and_status_are_the_commands_own(box: Containers) -> None:
    done = box("run", "--rm", "box", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.code, done.out, done.err) == (7, "out\n", "err\n")


def test_nothing_is_left_of_a_container_that_is_removed_at_its_end(box: Containers) -> None:
    box.ok("run", "--rm", "box", "sh", "-c", "echo x > /file; mkdir /a")
    assert box.leftovers() == []


@pytest.mark.parametrize(
    ("words", "code"),
    [(["nosuch"], 127), (["/etc"], 126), (["/etc/passwd"], 126), (["/no/such"], 127)],
)
def test_what_cannot_run_has_dockers_status(box: Containers, words: list[str], code: int) -> None:
    done = box("run", "--rm", "box", *words)
    assert done.code == code
    assert done.err.startswith("layerstore: error: container ")
    assert box.leftovers() == []


def test_failures_of_ours_are_125(box: Containers) -> None:
    for words in (
        ["--pull", "never", "nosuchimage"],
        ["--network", "bridge", "box"],
        ["-p", "80:80", "box"],
    ):
        done = box("run", *words)
        assert done.code == 125, done
        assert done.err.startswith("layerstore: error: ")


def test_failures_of_the_system_are_125_and_leave_no_container(
    box: Containers, tmp_path: Path
) -> None:
    for words in (
        ("--cidfile", f"{tmp_path}/no/such/directory", "box", "true"),
        ("-v", "/proc/self/status/below:/x", "box", "true"),
        ("--cidfile", f"{tmp_path}/id", "--pull", "never", "nosuchimage"),
    ):
        done = box("run", *words)
        assert done.code == 125, done
        assert done.err.startswith("layerstore: error: ")
    assert list(tmp_path.iterdir()) == []
    assert box.ok("ps", "-aq").out == ""


@pytest.mark.parametrize("options", [("--rm",), ("-d", "--restart", "always"), ("-d", "--rm")])
def test_a_start_that_is_called_off_ends(
    box: Containers, tmp_path: Path, options: tuple[str, ...]
) -> None:
    slow = tmp_path / "slow"
    slow.write_text(
        f"#!/bin/sh\ntouch {tmp_path}/called\nuntil [ -e {tmp_path}/off ]; do sleep 0.02; done\n"
        'sleep 0.5\nexec runc "$@"\n'
    )
    slow.chmod(0o755)
    words = ("run", *options, "--name", "off", "--runtime", str(slow), "box", "sleep", "1000")
    running = box.popen(*words, stdout=subprocess.DEVNULL)
    wait_until((tmp_path / "called").exists, "the runtime's start")
    running.send_signal(signal.SIGINT)
    (tmp_path / "off").touch()
    assert running.wait(60) in (125, 130)
    assert box.ok("ps", "-q").out == ""
    box("container", "rm", "off")
    wait_until(lambda: box.leftovers() == [], "the end of all of it")


def test_a_signal_that_ends_it_is_its_status(box: Containers) -> None:
    assert box("run", "--rm", "box", "sh", "-c", "kill -9 $$; sleep 9").code in (0, 137)
    assert box("run", "--rm", "--init", "box", "sh", "-c", "kill -15 $$").code == 143


def test_input_goes_in_and_large_output_comes_out_whole(box: Containers) -> None:
    data = os.urandom(1 << 20) * 5
    done = subprocess.run(
        box.command("run", "--rm", "-i", "box", "cat"),
        input=data, capture_output=True, check=True, env=box.environment(), timeout=120,
    )  # fmt: skip
    assert done.stdout == data


def test_without_i_there_is_no_input(box: Containers) -> None:
    assert box("run", "--rm", "box", "cat", stdin=b"x").out == ""


def test_a_terminal_with_its_size_and_keys(box: Containers) -> None:
    terminal = Terminal(box.command("run", "--rm", "-it", "box", "sh"), box.environment())
    try:
        terminal.expect(b"# ")
        terminal.resize(33, 77)
        terminal.type(b"test -t 0 && test -t 1 && echo a terminal''; stty size 2>/dev/null\n")
        terminal.expect(b"a terminal\r\n")
        terminal.type(b"sh -c 'echo started; exec sleep 100'\n")
        terminal.expect(b"\nstarted\r\n")  # before, the key would be the shell's own
        terminal.type(b"\x03")  # Ctrl-C ends what runs in it and nothing else
        terminal.type(b"exit 5\n")
        assert terminal.end() == 5
    finally:
        terminal.kill()
    assert box.leftovers() == []


def test_detach_keys_leave_it_running_and_attach_joins_it(box: Containers) -> None:
    words = ("run", "-it", "--name", "term", "box", "sh")
    terminal = Terminal(box.command(*words), box.environment())
    terminal.expect(b"# ")
    terminal.type(b"X=left''here\n\x10\x11")
    assert terminal.end() == 0
    assert box.state("term")["Running"]
    again = Terminal(box.command("attach", "term"), box.environment())
    again.type(b"echo $X.\n")
    again.expect(b"lefthere.\r\n")
    again.type(b"exit 3\n")
    assert again.end() == 3
    assert box.state("term")["ExitCode"] == 3


def test_detached_with_logs_and_follow(box: Containers) -> None:
    script = "echo bad >&2; for i in 1 2 3; do sleep 0.2; echo line $i; done; printf rest"
    name = box.ok("run", "-d", "box", "sh", "-c", script).out.strip()
    assert len(name) == 64
    followed = box.ok("logs", "-f", name[:8])
    assert followed.out == "line 1\nline 2\nline 3\nrest"
    assert followed.err == "bad\n"
    assert box.ok("logs", "--tail", "1", name).out == "rest"
    assert box.ok("logs", "-n", "2", name).out == "line 3\nrest"
    stamped = box.ok("logs", "-t", name).out.splitlines()[0]
    moment, _, text = stamped.partition(" ")
    assert text == "line 1"
    assert box.ok("logs", "--since", moment, name).out.startswith("line 1")
    assert box.ok("logs", "--since", "2099-01-01T00:00:00Z", name).out == ""


def test_logs_are_bounded(box: Containers) -> None:
    options = ("--log-opt", "max-size=64k", "--log-opt", "max-file=3", "--name", "talker")
    box.ok("run", *options, "box", "sh", "-c", "seq 1 60000")
    files = list((box.store / "containers").glob("*/log*"))
    assert 1 < len(files) <= 3
    assert all(file.stat().st_size < 2 * (64 << 10) for file in files)
    assert box.ok("logs", "--tail", "2", "talker").out == "59999\n60000\n"


def test_exec_in_it_as_others_and_elsewhere(box: Containers) -> None:
    box.ok("run", "-d", "--name", "main", "-e", "A=1", "box", "sleep", "100")
    assert box.ok("exec", "main", "sh", "-c", "echo $A").out == "1\n"
    assert box.ok("exec", "-e", "A=2", "-w", "/tmp", "main", "sh", "-c", "echo $A; pwd").out == (
        "2\n/tmp\n"
    )
    asked = box.ok("exec", "-u", "daemon", "main", "sh", "-c", "id; grep CapEff /proc/self/status")
    assert asked.lines[0].startswith("uid=1(daemon) gid=1(daemon)")
    assert asked.lines[1].split() == ["CapEff:", "0000000000000000"]
    assert box("exec", "main", "sh", "-c", "exit 9").code == 9
    for word, code in (("nosuch", 127), ("/etc", 126)):
        done = box("exec", "main", word)
        assert done.code == code
        assert done.err.startswith("layerstore: error: the command did not start: ")
        assert done.err.count(word) == 1  # the runtime's own words are not there beside ours
    told = box("exec", "main", "sh", "-c", "echo a >&2; sleep 0.1; printf b >&2; exit 255")
    assert (told.code, told.err) == (255, "a\nb")
    assert box("exec", "-i", "main", "cat", stdin=b"to it").out == "to it"
    assert box("exec", "-u", "nobodyhere", "main", "true").code == 125
    box.ok("exec", "-d", "main", "sh", "-c", "echo > /tmp/was-here")
    wait_until(lambda: box("exec", "main", "cat", "/tmp/was-here").code == 0, "exec -d")


def test_stop_asks_first_and_kills_then(box: Containers) -> None:
    polite = "trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.1; done"
    box.ok("run", "-d", "--name", "polite", "box", "sh", "-c", polite)
    wait_until(lambda: box.ok("logs", "polite").out == "ready\n", "its trap")
    box.ok("stop", "polite")
    assert box.state("polite")["ExitCode"] == 4
    assert box.ok("logs", "polite").out == "ready\nbye\n"
    box.ok("run", "-d", "--name", "deaf", "box", "sh", "-c", "trap '' TERM; sleep 100")
    box.ok("stop", "-t", "1", "deaf")
    assert box.state("deaf")["ExitCode"] == 137


def test_what_it_wrote_is_there_when_it_starts_again(box: Containers) -> None:
    box.ok("run", "--name", "again", "box", "sh", "-c", "echo x >> /file; cat /file")
    assert box.ok("start", "-a", "again").out == "x\nx\n"
    assert box.ok("wait", "again").out == "0\n"
    box.ok("rm", "again")
    assert box.leftovers() == []


def test_a_runtime_that_cannot_start_it_makes_place_for_the_next(
    box: Containers, tmp_path: Path
) -> None:
    real = shutil.which("runc")
    (tmp_path / "runc").write_text("#!/bin/sh\necho no such kernel >&2\nexit 1\n")
    (tmp_path / "crun").write_text(f'#!/bin/sh\nexec {real} "$@"\n')
    for name in ("runc", "crun"):
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert box.ok("run", "--rm", "box", "echo", "by another", PATH=path).out == "by another\n"
    box.ok("run", "-d", "--name", "next", "box", "sleep", "1000", PATH=path)
    assert box.ok("exec", "next", "echo", "in", PATH=path).out == "in\n"  # not by the first
    box.ok("rm", "-f", "next")
    (tmp_path / "crun").write_text("#!/bin/sh\necho nor here >&2\nexit 1\n")
    done = box("run", "--rm", "box", "true", env={"PATH": path})
    assert done.code == 125
    assert "no such kernel" in done.err
    assert box.leftovers() == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), "TimeoutStopSec=30"),
        (("--stop-timeout", "-1", "--restart", "on-failure:3"), "TimeoutStopSec=infinity"),
        (("--stop-timeout", "0", "--restart", "unless-stopped"), "TimeoutStopSec=20"),
    ],
)
def test_systemd_takes_a_generated_unit(
    box: Containers, tmp_path: Path, options: tuple[str, ...], line: str
) -> None:
    box.ok("create", "--name", "unit", *options, "box", "sleep", "1000")
    unit = tmp_path / "unit-of-box.service"
    unit.write_text(box.ok("generate", "systemd", "unit").out)
    assert line in unit.read_text().splitlines()
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr  # it warns of what it would ignore


def test_memory_limit_really_kills(box: Containers) -> None:
    eat = "a=x; while :; do a=$a$a; done"
    done = box("run", "--memory", "32m", "--name", "eater", "box", "sh", "-c", eat)
    assert done.code == 137
    assert box.state("eater")["OOMKilled"]


def test_who_has_limits_reads_them_and_cannot_change_them(box: Containers) -> None:
    script = "cd /sys/fs/cgroup; cat pids.max pids/pids.max; echo 99 > pids/pids.max"
    done = box("run", "--rm", "--pids-limit", "50", "box", "sh", "-c", f"({script}) 2>&1")
    assert "50\n" in done.out
    assert "Read-only file system" in done.out
    assert box.ok("run", "--rm", "box", "ls", "/sys/fs/cgroup").out == ""


def test_pids_limit(box: Containers) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 2 & done; echo all"
    done = box("run", "--rm", "--pids-limit", "5", "box", "sh", "-c", script)
    assert "fork" in done.err


def test_read_only_and_tmpfs(box: Containers) -> None:
    script = "touch /x; touch /tmp/y && mount | grep ' /tmp '"
    words = ("--read-only", "--tmpfs", "/tmp:size=1m")
    done = box("run", "--rm", *words, "box", "sh", "-c", script)
    assert "Read-only file system" in done.err
    assert "size=1024k" in done.out
    assert "noexec" in done.out


def test_volumes(box: Containers, tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (host / "seen").write_text("host\n")
    words = ("-v", f"{host}:/h:ro", "-v", "data:/etc")
    done = box("run", "--rm", *words, "box", "sh", "-c", "cat /h/seen; touch /h/x; echo y > /etc/y")
    assert done.out == "host\n"
    assert "Read-only" in done.err
    # A volume that was empty has what the image had there, and what was written to it since.
    kept = box.ok("run", "--rm", "-v", "data:/d", "box", "sh", "-c", "cat /d/y /d/passwd")
    assert kept.lines[:2] == ["y", "root:x:0:0:root:/root:/bin/sh"]
    box.ok("run", "-d", "--name", "user", "-v", "data:/d", "box", "sleep", "100")
    assert "in use by container user" in box.fails(4, "volume", "rm", "data")
    box.ok("rm", "-f", "user")
    box.ok("volume", "rm", "data")
    box.ok("run", "--rm", "-v", "/anonymous", "box", "touch", "/anonymous/x")
    assert box.ok("volume", "ls", "-q").out == ""


def test_a_directory_of_the_host_is_made_when_nothing_refuses_the_container(
    box: Containers, tmp_path: Path
) -> None:
    missing = tmp_path / "missing" / "below"
    box.ok("create", "--name", "taken", "box")
    volume = ("-v", f"{missing}:/x")
    for words in (
        ("--name", "taken", *volume, "box"),
        (*volume, "--pull", "never", "nosuchimage"),
        (*volume, "--memory", "1", "box"),
        (*volume, "--restart", "sometimes", "box"),
        (*volume, "-v", "/proc/self/status/below:/y", "--name", "taken", "box"),
    ):
        assert box("run", *words, "true").code == 125
        assert box("create", *words, "true").code != 0
        assert list(tmp_path.iterdir()) == [], words
    box.ok("create", "--name", "made", *volume, "box", "ls", "-d", "/x")
    assert missing.is_dir()
    assert box.ok("start", "-a", "made").out == "/x\n"
    missing.rmdir()
    assert box.ok("run", "--rm", *volume, "box", "ls", "-d", "/x").out == "/x\n"
    assert missing.is_dir()
    said = box("run", "-v", "/proc/self/status/below:/y", "box", "true").err
    assert "/proc/self/status/below is not there to be mounted, and cannot be made" in said
    assert box("run", "--mount", f"type=bind,source={tmp_path}/no,target=/x", "box").code == 125


def test_a_volume_that_is_taken_while_unused_ones_are_removed_stays(
    box: Containers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    box.ok("volume", "create", "late")
    box.ok("volume", "create", "unused")
    root = str(box.store)
    found = [*volume_users.unused_volumes(root), "gone"]  # as prune finds out first
    assert {"late", "unused"} <= set(found)
    monkeypatch.setattr(volume_users, "unused_volumes", lambda _root: found)
    box.ok("create", "--name", "takes", "-v", "late:/data", "box", "true")
    assert fast.run("volume", ["prune", "--all", "--force"], root) == 0
    assert capsys.readouterr().out.split() == ["unused"]
    assert box.ok("volume", "ls", "-q").lines == ["late"]
    box.ok("rm", "takes")
    box.ok("volume", "rm", "late")


def test_networks(box: Containers) -> None:
    inside = box.ok("run", "--rm", "--network", "none", "box", "cat", "/proc/net/dev").out
    assert [line.split(":")[0].strip() for line in inside.splitlines()[2:]] == ["lo"]
    own = os.readlink("/proc/self/ns/net")
    assert box.ok("run", "--rm", "box", "readlink", "/proc/self/ns/net").out.strip() == own
    words = ("--add-host", "there:192.0.2.7", "--dns", "192.0.2.8", "--hostname", "me")
    script = "cat /etc/hosts /etc/resolv.conf; hostname"
    told = box.ok("run", "--rm", "--network", "none", *words, "box", "sh", "-c", script).lines
    assert "192.0.2.7\tthere" in told
    assert "nameserver 192.0.2.8" in told
    assert told[-1] == "me"


def test_rights(box: Containers) -> None:
    show = "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status"

    def rights(*words: str) -> dict[str, str]:
        lines = box.ok("run", "--rm", *words, "box", "sh", "-c", show).lines
        return dict(line.split(":\t") for line in lines)

    assert rights() == {"CapEff": "00000000a80425fb", "NoNewPrivs": "0", "Seccomp": "2"}
    assert rights("--cap-drop", "ALL")["CapEff"] == "0" * 16
    assert rights("--cap-drop", "all", "--cap-add", "net_admin")["CapEff"] == f"{1 << 12:016x}"
    tight = rights("--security-opt", "no-new-privileges", "--security-opt", "seccomp=unconfined")
    assert (tight["NoNewPrivs"], tight["Seccomp"]) == ("1", "0")
    assert rights("-u", "1")["CapEff"] == "0" * 16
    wide = rights("--privileged")
    assert (int(wide["CapEff"], 16) & ~int("a80425fb", 16)) > 0
    assert wide["Seccomp"] == "0"


def test_seccomp_profile_of_ones_own(box: Containers, tmp_path: Path) -> None:
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    done = box("run", "--rm", "--security-opt", f"seccomp={profile}", "box", "mkdir", "/a")
    assert "Operation not permitted" in done.err


def test_user_environment_and_entry_point(box: Containers, tmp_path: Path) -> None:
    variables = tmp_path / "env"
    variables.write_text("# a comment\nB=two words\nHOME=/h\n\n")
    words = ("-u", "daemon:4", "-e", "A=1", "--env-file", str(variables), "-w", "/made/here")
    script = "id -u; id -g; echo $A,$B,$HOME; pwd"
    done = box.ok("run", "--rm", *words, "--entrypoint", "sh", "box", "-c", script)
    assert done.lines == ["1", "4", "1,two words,/h", "/made/here"]


def test_init_reaps(box: Containers) -> None:
    # Who has just ended is a zombie until init has a turn; whom nobody reaps stays one.
    script = (
        "sh -c 'sleep 0.1 & exit 0'; sleep 0.5; n=0; "
        "while grep -l '^State.*Z' /proc/[0-9]*/status > /z; [ -s /z ] && [ $n -lt 100 ]; "
        "do n=$((n+1)); sleep 0.1; done; cat /z"
    )
    done = box("run", "--rm", "--init", "box", "sh", "-c", script)
    if "--init needs" in done.err:
        pytest.skip("neither catatonit nor tini is installed")
    assert done.out == ""


def test_names_are_unique_and_ids_have_prefixes(box: Containers) -> None:
    name = box.ok("create", "--name", "only", "box").out.strip()
    assert box("run", "--name", "only", "box", "true").code == 125
    assert json.loads(box.ok("inspect", name[:6]).out)[0]["Name"] == "/only"
    assert box.ok("ps", "-aq", "--no-trunc").out.strip() == name
    assert box.ok("ps", "-a", "--format", "{{.Names}} {{.State}}").out == "only created\n"
    box.fails(3, "stop", "nobody")
    box.ok("rm", "only")


def test_filters(box: Containers) -> None:
    box.ok("run", "--name", "one", "-l", "kind=a", "box", "true")
    box("run", "--name", "two", "box", "sh", "-c", "exit 3")
    names = "{{.Names}}"
    assert box.ok("ps", "-a", "-f", "label=kind=a", "--format", names).out == "one\n"
    assert box.ok("ps", "-a", "-f", "exited=3", "--format", names).out == "two\n"
    assert box.ok("ps", "-a", "-f", "name=tw", "-f", "name=on", "--format", names).out == (
        "two\none\n"
    )
    box.fails(2, "ps", "-f", "colour=red")


def test_a_name_of_an_image_and_a_container_is_not_guessed(box: Containers) -> None:
    box.ok("run", "--name", "box", "box", "true")
    assert "is an image and a container" in box.fails(4, "rm", "box")
    assert "is used by container box" in box.fails(4, "rmi", "box")
    box.ok("container", "rm", "box")


def test_gc_beside_running_containers(box: Containers) -> None:
    box.ok("tag", "box", "other")
    box.ok("run", "-d", "--name", "kept", "other", "sh", "-c", "sleep 100")
    box.ok("gc", "--all")
    assert box.ok("exec", "kept", "cat", "/etc/passwd").out.startswith("root:")
    box.ok("stop", "-t", "0", "kept")
    box.ok("gc", "--all")
    assert box.ok("start", "kept").out == "kept\n"
    assert box.ok("check", "--read-data").code == 0


def test_signals_to_run_are_the_containers(box: Containers) -> None:
    check_signals_arrive(box)


def test_files_of_a_container_are_private(box: Containers) -> None:
    box.ok("run", "--name", "secret", "-e", "PASSWORD=x", "box", "echo", "x")
    (record,) = (box.store / "containers").glob("*/container.json")
    directory = record.parent
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name in ("container.json", "state.json", "log"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600


def test_an_anonymous_volume_that_another_container_has_stays(box: Containers) -> None:
    box.ok("run", "-d", "--name", "first", "-v", "/data", "box", "sleep", "1000")
    volume = box.ok("volume", "ls", "-q").out.strip()
    box.ok("create", "--name", "second", "-v", f"{volume}:/data", "box")
    box.fails(4, "volume", "rm", volume)
    box.ok("container", "rm", "--force", "--volumes", "first")
    assert box.ok("volume", "ls", "-q").out.strip() == volume
    box.ok("container", "rm", "second")
    box.ok("volume", "rm", volume)


def test_a_bundle_runs_with_the_runtime_alone(box: Containers, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    words = ("--network", "none", "-u", "daemon", "-w", "/made", "box")
    box.ok("bundle", *words, bundle, "sh", "-c", "id -un; pwd; echo $PATH > /dev/null")
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o700
    name = f"bundle-{os.getpid()}"
    done = subprocess.run(
        ["runc", "--root", tmp_path / "runc", "run", "--bundle", bundle, name],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "daemon\n/made\n"), done.stderr
    assert "is there already" in box.fails(4, "bundle", "box", bundle)
    box.fails(2, "bundle", "-v", "named:/x", "box", tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "runc"]


def test_a_user_namespace_of_its_own(box: Containers, tmp_path: Path) -> None:
    ids = tmp_path / "subid"
    ids.write_text("root:100000:65536\n")
    run = " ".join(box.command("run", "--rm", "--userns", "auto", "-v", "mapped:/v"))
    script = (
        f"mount --bind {ids} /etc/subuid && mount --bind {ids} /etc/subgid && exec {run} box "
        "sh -c 'id -u; cat /proc/self/uid_map; stat -c %u /etc/passwd; touch /v/x /y && echo ok'"
    )
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script],
        capture_output=True, text=True, check=False, env=box.environment(), timeout=120,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[:1] == ["0"], done
    assert lines[1].split() == ["0", "100000", "65536"]
    assert lines[2:] == ["0", "ok"]
    assert os.stat(box.store / "volumes" / "mapped" / "_data" / "x").st_uid == 100000
    box.ok("volume", "rm", "mapped")
    assert box.leftovers() == []


@pytest.mark.parametrize("propagation", ["private", "shared"])
def test_the_runtime_is_started_once_also_where_nothing_shows_the_image_yet(
    box: Containers, tmp_path: Path, propagation: str
) -> None:
    """It begins before that is mounted, in a copy of a mount table that may not get new mounts."""
    calls, runtime = tmp_path / "calls", tmp_path / "runc"
    runtime.write_text(f'#!/bin/sh\necho "$*" >> {calls}\nexec {shutil.which("runc")} "$@"\n')
    runtime.chmod(0o755)
    words = ["run", "--rm", "--runtime", str(runtime), "box", "head", "-n", "1", "/proc/mounts"]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", propagation, *box.command(*words)],
        capture_output=True, text=True, check=False, env=box.environment(), timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done
    assert done.stdout.startswith("layerstore / overlay ")
    started = [line for line in calls.read_text().splitlines() if "run --detach " in line]
    assert len(started) == 1
    assert box.leftovers() == []


def test_df_counts_the_writable_layers_of_those_that_run(box: Containers) -> None:
    box.ok("create", "--name", "resting", "box")
    box.ok("run", "-d", "--name", "busy", "box", "sleep", "1000")
    box.ok("run", "--name", "done", "box", "true")

    def counts() -> tuple[int, int]:
        rows = box.ok("df", "--json").json()["rows"]
        (row,) = (row for row in rows if row["kind"] == "Writable layers")
        return row["count"], row["active"]

    count, active = counts()
    assert active == 1
    assert count >= 2
    box.ok("stop", "-t", "0", "busy")
    assert counts() == (count, 0)
