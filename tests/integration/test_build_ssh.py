"""RUN --mount=type=ssh for real: OpenSSH's agent outside, its ssh-add inside."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layerstore.build.errors import BuildStepError
from layerstore.build.run.settings import SshSource
from layerstore.errors import UnsupportedError
from tests.support.build import box, builder, needs_runc  # noqa: F401
from tests.support.running import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.build import Builder

# ruff: noqa: F811 -- pytest fixtures are parameters of the same name

pytestmark = [
    *needs_runc,
    pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="openssh-client is not installed"),
]
SSH_ADD = "/ctx/loader --library-path /ctx/libraries /ctx/ssh-add"


def make_key(path: Path, passphrase: str = "") -> str:
    """Make a key pair; return the public one's text."""
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "", "-f", str(path)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
    return path.with_suffix(".pub").read_text().strip()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    """An agent of the user's own, by its socket."""
    path = str(tmp_path / "agent")
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", path], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    yield path
    process.terminate()
    process.wait()
    process.stdout.close()


def add(agent: str, *words: str) -> str:
    """Run ssh-add outside; return what it says."""
    done = subprocess.run(
        ["ssh-add", *words],
        env={**os.environ, "SSH_AUTH_SOCK": agent},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.fixture
def client(box: Builder) -> Builder:
    """A builder whose context holds ssh-add with the libraries that it needs."""
    program = shutil.which("ssh-add")
    assert program is not None
    files: dict[str, str | bytes] = {"ssh-add": Path(program).read_bytes()}
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for path in re.findall(r"(/\S+) \(0x", listed):
        name = "loader" if "/ld-" in path else f"libraries/{os.path.basename(path)}"
        files[name] = Path(path).read_bytes()
    box.write(files)
    for name in ("ssh-add", "loader"):
        (box.context / name).chmod(0o755)
    return box


def test_a_step_uses_keys_and_cannot_change_them(
    client: Builder, agent: str, tmp_path: Path
) -> None:
    public = make_key(tmp_path / "key")
    add(agent, str(tmp_path / "key"))
    client.write({"key.pub": public + "\n"})
    result = client.build(
        "FROM box\nRUN --mount=type=ssh --mount=target=/ctx "
        f"{SSH_ADD} -L && {SSH_ADD} -T /ctx/key.pub && echo '[signed]' && echo $SSH_AUTH_SOCK; "
        f"{SSH_ADD} -D || echo '[kept]'\n",
        ssh={"default": SshSource(socket=agent)},
    )
    text = client.ui.text.decode()
    assert public.split()[1] in text
    assert "[signed]" in text
    assert "/run/buildkit/ssh_agent.0" in text
    assert "[kept]" in text
    assert public.split()[1] in add(agent, "-L")
    assert result.image.layers == client.store.resolve("box").layers
    assert "ssh_agent" not in repr(client.config(result))


def test_keys_from_files_go_into_an_agent_of_the_build(client: Builder, tmp_path: Path) -> None:
    publics = [make_key(tmp_path / name) for name in ("one", "two", "three")]
    private = b"".join((tmp_path / "one").read_bytes().splitlines()[1:3])
    client.build(
        "FROM box\nRUN --mount=type=ssh,id=both --mount=type=ssh,id=third,target=/sock "
        f"--mount=target=/ctx {SSH_ADD} -L && echo '[third]' && "
        f"SSH_AUTH_SOCK=/sock {SSH_ADD} -L; cat /proc/1/environ\n",
        ssh={
            "both": SshSource(keys=(str(tmp_path / "one"), str(tmp_path / "two"))),
            "third": SshSource(keys=(str(tmp_path / "three"),)),
        },
    )
    first, second = client.ui.text.decode().split("[third]")
    assert [public.split()[1] in first for public in publics] == [True, True, False]
    assert [public.split()[1] in second for public in publics] == [False, False, True]
    for folder, _, names in os.walk(client.store.root):
        for name in names:
            content = Path(folder, name).read_bytes()
            assert private[:40] not in content.replace(b"\n", b""), name
    # Those of tests beside this one look the same, but end as well.
    wait_until(
        lambda: (
            not any(
                _command(pid).startswith(b"ssh-agent\0-D\0-a\0agent-")
                for pid in filter(str.isdigit, os.listdir("/proc"))
            )
        ),
        "the end of the build's agents",
    )


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_owner_and_mode(client: Builder, agent: str) -> None:
    options = "uid=5,gid=6,mode=0620"
    client.build(
        f"FROM box\nRUN --mount=type=ssh,target=/s,{options} stat -c '%u:%g %a %F' /s\n"
        "USER 5\n"
        f"RUN --mount=type=ssh,uid=5 --mount=target=/ctx {SSH_ADD} -l; true\n"
        f"RUN --mount=type=ssh --mount=target=/ctx {SSH_ADD} -l || echo '[not mine]'\n",
        ssh={"default": SshSource(socket=agent)},
    )
    text = client.ui.text.decode()
    assert "5:6 620 socket" in text
    assert "The agent has no identities." in text
    assert "Permission denied" in text
    assert "[not mine]" in text


def test_agents_that_were_not_given(box: Builder, agent: str, tmp_path: Path) -> None:
    box.build("FROM box\nRUN --mount=type=ssh test -z \"$SSH_AUTH_SOCK\" && echo '[without]'\n")
    assert b"[without]" in box.ui.text
    with pytest.raises(BuildStepError, match="needs the ssh agent 'git'") as missing:
        box.build("FROM box\nRUN --mount=type=ssh,id=git,required true\n")
    assert "--ssh git" in str(missing.value.hint)
    with pytest.raises(BuildStepError, match="cannot be reached"):
        box.build(
            "FROM box\nRUN --mount=type=ssh true\n",
            ssh={"default": SshSource(socket=str(tmp_path / "gone"))},
        )
    # What the Dockerfile sets holds; whether there is an agent makes another step.
    for _ in range(2):
        box.build(
            "FROM box\nENV SSH_AUTH_SOCK=/mine\nRUN --mount=type=ssh echo [$SSH_AUTH_SOCK]\n",
            ssh={"default": SshSource(socket=agent)},
        )
    assert box.ui.ran == []


def test_keys_that_cannot_be_used(
    box: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_key(tmp_path / "locked", passphrase="secret words")
    (tmp_path / "text").write_text("no key")
    (tmp_path / "text").chmod(0o600)
    for name in ("locked", "text"):
        with pytest.raises(BuildStepError, match="ssh-add does not take") as refused:
            box.build(
                "FROM box\nRUN --mount=type=ssh true\n",
                ssh={"default": SshSource(keys=(str(tmp_path / name),))},
            )
        assert "no passphrase" in str(refused.value.hint)
    runc = shutil.which("runc") or shutil.which("crun")
    assert runc is not None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / os.path.basename(runc)).symlink_to(runc)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UnsupportedError, match="ssh-agent is needed") as absent:
        box.build(
            "FROM box\nRUN --mount=type=ssh true\n",
            ssh={"default": SshSource(keys=(str(tmp_path / "text"),))},
        )
    assert "openssh-client" in str(absent.value.hint)
