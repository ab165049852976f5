"""RUN for real: a shell of Debian's busybox in an OCI runtime over a mounted root."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layerstore.build.cache_exchange import CacheExport, CacheKind
from layerstore.build.errors import BuildStepError, StepFailedError
from layerstore.build.run.idle_caches import find_idle_caches
from layerstore.build.run.resting_caches import put_to_rest
from layerstore.build.run.sandbox import Sandbox
from layerstore.errors import BuildError
from layerstore.formats.tree import Kind
from layerstore.measure.df import take_df
from layerstore.runtime import holes
from tests.support.build import BASE_TIME_S, box, builder, needs_runc  # noqa: F401

if TYPE_CHECKING:
    from tests.support.build import Builder

pytestmark = needs_runc


def changes(box: Builder, result) -> set[str]:  # noqa: F811
    """Return the paths that the image's own layers hold."""
    from layerstore.image.layers.layers import load_changeset

    found: set[str] = set()
    for diff_id in result.image.layers[1:]:
        changeset = load_changeset(box.store, diff_id)
        found |= {os.fsdecode(entry.path) for entry in changeset.entries}
        found |= {f"-{os.fsdecode(path)}" for path in changeset.whiteouts}
    return found


def test_a_layer_holds_what_the_command_did_and_nothing_else(box: Builder) -> None:  # noqa: F811
    result = box.build(
        "FROM box\n"
        "RUN echo new > /new && chmod 4711 /new && ln /new /new2 && rm /etc/group\n"
        "RUN ln -s new /link && mkdir -m 700 /d && touch -t 202001020304.05 /d/old\n"
    )
    files = box.files(result)
    assert changes(box, result) == {"new", "new2", "etc", "-etc/group", "link", "d", "d/old"}
    assert (files["new"].content, files["new"].mode) == (b"new\n", 0o4711)
    assert files["link"].target == b"new"
    assert files["d"].mode == 0o700
    assert "etc/group" not in files
    assert files["d/old"].mtime_ns == 1_577_934_245 * 10**9


def test_mount_points_of_the_sandbox_leave_no_trace(box: Builder) -> None:  # noqa: F811
    """The base has neither /proc, /sys, /dev nor /etc/hosts, and looks untouched after."""
    result = box.build("FROM box\nRUN cat /etc/hosts && ls /proc /sys /dev > /dev/null\n")
    assert result.image.layers == box.store.resolve("box").layers
    assert box.history(result)[0][1] is False
    second = box.build("FROM box\nRUN echo x > /etc/x\n")
    assert changes(box, second) == {"etc", "etc/x"}


def test_a_directory_touched_back_is_kept(box: Builder) -> None:  # noqa: F811
    result = box.build("FROM box\nRUN chmod 711 /etc\nRUN chmod 700 /\n")
    files = box.files(result)
    assert files["etc"].mode == 0o711
    assert files["etc"].mtime_ns == BASE_TIME_S * 10**9
    assert files[""].mode == 0o700


def test_environment_user_and_directory(box: Builder) -> None:  # noqa: F811
    box.build(
        """\
FROM box
ARG A=arg
ENV E=env
WORKDIR /w/x
RUN echo "[$A $E $HOME $(pwd) $(id -u):$(id -g)]"
USER daemon
RUN echo "[$HOME $(id -u):$(id -g) $(id -G)]"
USER 5:6
RUN echo "[$HOME $(id -u):$(id -g)]"
SHELL ["/bin/sh", "-ec"]
RUN ["/bin/sh", "-c", "echo [exec $0]"]
RUN env
""",
        build_args={"https_proxy": "http://proxy.test"},
    )
    text = box.ui.text.decode()
    assert "[arg env /root /w/x 0:0]" in text
    assert "[/usr/sbin 1:1 1 4]" in text
    assert "[/ 5:6]" in text
    assert "[exec /bin/sh]" in text
    assert "https_proxy=http://proxy.test" in text
    assert "HTTPS_PROXY=http://proxy.test" in text


def test_proxies_are_in_no_key_and_no_history(box: Builder) -> None:  # noqa: F811
    dockerfile = "FROM box\nARG A=1\nRUN echo $A $http_proxy > /x\n"
    first = box.build(dockerfile, build_args={"HTTP_PROXY": "http://one.test"})
    again = box.build(dockerfile, build_args={"HTTP_PROXY": "http://two.test"})
    assert again.image_id == first.image_id
    assert box.history(first)[-1] == (
        "RUN |1 A=1 /bin/sh -c echo $A $http_proxy > /x # buildkit", True,
    )  # fmt: skip


def test_heredocs_reach_the_shell(box: Builder) -> None:  # noqa: F811
    box.build(
        "FROM box\nARG A=arg\n"
        'RUN <<EOF\nB=own\necho "[1 $A $B]"\nEOF\n'
        'RUN <<-"EOF"\n\techo "[2 $A]"\n\tEOF\n'
        "RUN cat <<one - <<two\nignored\none\n[3 two]\ntwo\n"
        'RUN <<EOF\n#!/bin/sh\necho "[4 $0]"\nEOF\n'
    )
    text = box.ui.text.decode()
    for expected in ("[1 arg own]", "[2 arg]", "[3 two]", "[4 /dev/pipes/EOF]"):
        assert expected in text


def test_a_failing_command_says_where_and_how(box: Builder) -> None:  # noqa: F811
    with pytest.raises(StepFailedError) as caught:
        box.build("FROM box\nRUN true\n\nRUN echo some output; \\\n  exit 42\n")
    error = caught.value
    assert f"{box.directory}/Dockerfile:4:1: " in str(error)
    assert "exit status 42" in str(error)
    assert (error.status, error.tail, error.exit_code) == (42, "some output\n", 14)
    assert box.ui.failures == ["RUN echo some output;   exit 42"]
    # What was finished is not done again.
    box.build("FROM box\nRUN true\nRUN echo fixed\n")
    assert box.ui.cached == ["RUN true"]


@pytest.mark.parametrize(
    ("instruction", "words"),
    [
        ('RUN ["/no/such"]', "exit status 1"),
        ("RUN sh -c 'kill -9 $$'; exit $?", "exit status 137"),
        ("USER ghost\nRUN true", "knows no user 'ghost'"),
        ("RUN --mount=type=secret,id=s,required true", "needs the secret 's'"),
        ("RUN --mount=target=/x,source=absent true", "absent does not exist"),
        ("WORKDIR /proc/self/fd/7\nRUN true", "exit status"),
    ],
)
def test_other_failures(box: Builder, instruction: str, words: str) -> None:  # noqa: F811
    with pytest.raises(BuildStepError, match=words):
        box.build(f"FROM box\n{instruction}\n")


def test_secrets_are_seen_and_nowhere_else(box: Builder) -> None:  # noqa: F811
    secret = b"canary-" + os.urandom(8).hex().encode()
    result = box.build(
        "FROM box\n"
        "RUN --mount=type=secret,id=key sha256sum /run/secrets/key\n"
        "RUN --mount=type=secret,id=key,target=/k,uid=5,gid=6,mode=0440 "
        "stat -c '[%u:%g %a]' /k && test ! -w /k || true\n"
        "RUN --mount=type=secret,id=key,env=KEY test -n \"$KEY\" && echo '[env]'\n"
        "RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent\n",
        secrets={"key": secret},
        cache_to=[
            CacheExport(CacheKind.DIRECTORY, str(box.directory / "cache"), compression="none")
        ],
    )
    text = box.ui.text.decode()
    assert "[5:6 440]" in text
    assert "[env]" in text
    assert result.image.layers == box.store.resolve("box").layers
    assert (box.directory / "cache/index.json").exists()
    places = itertools.chain(os.walk(box.store.root), os.walk(box.directory / "cache"))
    for folder, _, names in places:
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                assert secret not in file.read(), name
    dockerfile = "FROM box\nRUN --mount=type=secret,id=key sha256sum /run/secrets/key || true\n"
    box.build(dockerfile, secrets={"key": b"one"})
    box.build(dockerfile, secrets={"key": b"another"}, explain=True)
    assert box.ui.cached  # another value makes no other step
    box.build(dockerfile, explain=True)
    assert box.ui.reasons == [("secret", "key")]
    box.build(dockerfile.replace("id=key", "id=key,required"), secrets={"key": b"one"})
    box.build(dockerfile.replace("id=key", "id=key,required"), secrets={"key": b"two"})
    assert box.ui.cached


def test_bind_mounts_show_the_context_and_stages(box: Builder) -> None:  # noqa: F811
    box.write({"a": "A", "hidden": "H", ".dockerignore": "hidden\n"})
    dockerfile = """\
FROM box AS stage
RUN mkdir /out && echo made > /out/file
FROM box
RUN --mount=target=/ctx ls -a /ctx && test ! -e /ctx/hidden && ! touch /ctx/new
RUN --mount=target=/ctx,rw touch /ctx/new && cp /ctx/a /copied
RUN --mount=from=stage,source=out,target=/o cat /o/file
RUN --mount=from=stage,source=/out/file,target=/f cat /f
"""
    result = box.build(dockerfile)
    assert changes(box, result) == {"copied"}
    assert box.ui.text.decode().count("made\n") == 2
    box.build(dockerfile)
    assert box.ui.ran == []
    box.write({"a": "B"})
    box.build(dockerfile)
    assert box.ui.ran[:2] == [
        "RUN --mount=target=/ctx ls -a /ctx && test ! -e /ctx/hidden && ! touch /ctx/new",
        "RUN --mount=target=/ctx,rw touch /ctx/new && cp /ctx/a /copied",
    ]


def test_bind_sources_cannot_lead_out_of_the_stage(box: Builder) -> None:  # noqa: F811
    with pytest.raises(BuildError, match="No such file"):
        box.build(
            "FROM box AS stage\nRUN ln -s /../../../../proc/1/root/etc /out\n"
            "FROM box\nRUN --mount=from=stage,source=/out,target=/o ls /o\n"
        )


def test_cache_mounts_last_and_are_kept_apart(box: Builder) -> None:  # noqa: F811
    line = "RUN --mount=type=cache,id={id},target=/c{more} echo {n} >> /c/log && cat /c/log\n"
    box.build("FROM box\n" + line.format(id="../../etc", more="", n="one"))
    result = box.build("FROM box\n" + line.format(id="../../etc", more="", n="two"))
    assert box.ui.text == b"one\ntwo\n"
    assert changes(box, result) == set()
    box.build("FROM box\n" + line.format(id="other", more="", n="three"))
    assert box.ui.text == b"three\n"
    box.build("FROM box\nUSER 5\n" + line.format(id="../../etc", more=",uid=5", n="four"))
    assert box.ui.text == b"four\n"
    for sharing in ("locked", "private"):
        box.build("FROM box\n" + line.format(id="x", more=f",sharing={sharing}", n=sharing))
    assert box.ui.text == b"locked\nprivate\n"


def test_a_step_gets_a_cache_back_that_was_put_to_rest(box: Builder) -> None:  # noqa: F811
    line = "FROM box\nRUN --mount=type=cache,target=/c,uid=5,mode=0750 "
    fill = "id >/c/log && cp /bin/busybox /c && ln /c/log /c/again && chmod 4711 /c/log && "
    look = "cd /c && ls -ldn --full-time . && ls -lAn --full-time && cat log && sha256sum busybox"
    box.build(line + fill + look + "\n")
    before, box.ui.text = box.ui.text, b""
    root = Path(box.store.paths.cache_mounts)
    disk = take_df(box.store).disk_size
    rested = put_to_rest(box.store, find_idle_caches(root))
    assert (len(rested.caches), rested.kept, os.listdir(root)) == (1, [], [])
    usage = take_df(box.store)
    assert disk - usage.disk_size > 500_000, "the base has its largest file"
    assert sum(row.size for row in usage.rows) + usage.slack == usage.disk_size
    box.build(line + look + "\n")
    assert box.ui.text == before
    assert box.ui.messages == []


def test_a_new_tmpfs_is_everybodys(box: Builder) -> None:  # noqa: F811
    result = box.build(
        "FROM box\n"
        "USER 1000\n"
        "RUN --mount=type=tmpfs,target=/t/u touch /t/u/mine && stat -c '[%a %n]' /t/u /t\n"
    )
    text = box.ui.text.decode()
    assert "[1777 /t/u]" in text
    assert "[755 /t]" in text
    assert changes(box, result) == set()


def test_tmpfs_and_no_network(box: Builder) -> None:  # noqa: F811
    result = box.build(
        "FROM box\n"
        "RUN --mount=type=tmpfs,target=/t,size=1m "
        "! dd if=/dev/zero of=/t/x bs=1M count=3 2>/dev/null && echo '[full]'\n"
        "RUN --network=none cat /proc/net/dev\n"
    )
    text = box.ui.text.decode()
    assert "[full]" in text
    interfaces = [line.split(":")[0].strip() for line in text.splitlines() if ":" in line]
    assert interfaces == ["lo"]
    assert changes(box, result) == set()


def test_the_sandbox_is_docker_s(box: Builder) -> None:  # noqa: F811
    box.build(
        "FROM box\nRUN cat /proc/self/status; ls /proc/self/fd | wc -l; hostname; ls /dev; "
        "mount -t tmpfs x /tmp 2>&1 || echo '[no mount]'; "
        "echo 1 > /proc/sys/vm/swappiness 2>&1 || echo '[no sysctl]'; "
        "cat /proc/kcore | wc -c; ls -ld /proc/2 2>/dev/null | wc -l\n"
    )
    text = box.ui.text.decode()
    assert "CapEff:\t00000000a80425fb" in text
    assert "Seccomp:\t2" in text
    assert "NoNewPrivs:\t0" in text
    assert "[no mount]" in text
    assert "[no sysctl]" in text
    assert "layerstore" in text
    assert "mqueue" in text


def test_builds_with_an_epoch_are_the_same_everywhere(tmp_path) -> None:
    from tests.support.build import Builder, add_base

    dockerfile = (
        "FROM box\nWORKDIR /w\nCOPY a /new/\nRUN mkdir /r && date > /dev/null && echo b > /r/b\n"
        'COPY --from=box /bin/busybox /r/\nCMD ["x"]\n'
    )
    ids = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made = Builder(tmp_path / name)
        add_base(made.store)
        made.write({"a": "A"})
        result = made.build(dockerfile, source_date_epoch=1_600_000_000)
        times = [file.mtime_ns for file in made.files(result).values()]
        assert max(times) <= 1_600_000_000 * 10**9
        ids.add(result.image_id)
        made.store.close()
    assert len(ids) == 1


def test_copy_replaces_what_a_step_made_and_the_other_way_round(box: Builder) -> None:  # noqa: F811
    box.write({"d/a": "from context"})
    result = box.build(
        "FROM box\nRUN mkdir /d && echo old > /d/a && echo kept > /d/b && ln -s /d /l\n"
        "COPY d /l\nRUN cat /d/a && rm -r /d && echo file > /d\n"
    )
    assert b"from context" in box.ui.text
    files = box.files(result)
    assert files["d"].kind is Kind.FILE
    assert "d/b" not in files


def test_a_runtime_with_a_hole_is_told_once_and_only_when_it_runs(
    box: Builder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hole = holes.Hole("CVE-1", "everything", ("9",), by_image_alone=True)
    minor = hole._replace(name="CVE-2", by_image_alone=False)
    fixes = holes.RuntimeFixes("1.0", (hole, minor), is_certain=True)
    monkeypatch.setattr(holes, "fixes_of", lambda _path, _name: fixes)
    text = "FROM box AS a\nRUN echo a > /a\nFROM box\nRUN echo b > /b\nCOPY --from=a /a /\n"
    box.build(text)
    (message,) = box.ui.messages
    assert "1.0 has holes by which images get out: CVE-1 (everything); build only" in message
    box.build(text)
    assert box.ui.messages == []


def test_a_runtime_that_is_slow_to_tell_its_version_begins_no_command_before(
    box: Builder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    happened: list[str] = []
    run = Sandbox.run

    def fixes_of(_path: str, _name: str) -> holes.RuntimeFixes:
        time.sleep(0.5)  # a root is ready long before
        happened.append("told")
        return holes.RuntimeFixes("1.0", (), is_certain=True)

    def run_noted(sandbox: Sandbox, *args: object, **kwargs: object) -> int:
        happened.append("run")
        return run(sandbox, *args, **kwargs)

    monkeypatch.setattr(holes, "fixes_of", fixes_of)
    monkeypatch.setattr(Sandbox, "run", run_noted)
    box.build("FROM box AS a\nRUN echo a > /a\nFROM box\nRUN echo b > /b\nCOPY --from=a /a /\n")
    assert happened == ["told", "run", "run"]
