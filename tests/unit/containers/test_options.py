"""What the words of ``run`` mean, and which are refused."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from layerstore.cli import fast
from layerstore.cli.container.commands import split_command_line
from layerstore.cli.container.flags import REFUSED, refuse_unsupported
from layerstore.cli.container.options import settings_of, signal_number
from layerstore.containers.image_config import ImageDefaults
from layerstore.containers.settings import MountRequest, settings_from_json
from layerstore.errors import InputError
from layerstore.runtime.capabilities import capabilities_of
from layerstore.runtime.oci_spec import DEFAULT_CAPABILITIES, EVERY_CAPABILITY

if TYPE_CHECKING:
    from layerstore.containers.settings import Settings

IMAGE = ImageDefaults(
    env=("PATH=/bin", "broken", "A=image"), cmd=("sh",), volumes=("/data", "/x/../y"),
    labels={"of": "image"},
)  # fmt: skip


def settings(*words: str, image: ImageDefaults = IMAGE) -> Settings:
    options = fast.parse("run", [*words, "image"] if "image" not in words else list(words))
    return settings_of(options, image, options.command)


def test_everything_behind_the_image_is_the_commands() -> None:
    options = fast.parse("run", ["-it", "-e", "A=b", "image", "ls", "--rm", "-e", "--", "x"])
    assert options.image == "image"
    assert options.command == ["ls", "--rm", "-e", "--", "x"]
    assert (options.rm, options.interactive, options.tty) == (False, True, True)


@pytest.mark.parametrize(
    ("words", "own"),
    [
        (["-itu", "1", "image", "-u"], ["-itu", "1", "image"]),
        (["-u1", "image", "x"], ["-u1", "image"]),
        (["--name=a", "image", "x"], ["--name=a", "image"]),
        (["--name", "a", "image", "x"], ["--name", "a", "image"]),
        (["--rm", "--", "image", "-x"], ["--rm", "--", "image"]),
    ],
)
def test_options_end_at_the_image(words: list[str], own: list[str]) -> None:
    assert split_command_line(fast.parser_of("run"), words) == (own, words[len(own) :])


def test_the_image_says_what_the_words_do_not() -> None:
    made = settings()
    assert made.args == ("sh",)
    assert made.env == ("PATH=/bin", "A=image")
    assert made.labels == (("of", "image"),)
    assert [mount.target for mount in made.mounts] == ["/data", "/y"]
    assert all(mount.anonymous for mount in made.mounts)


def test_an_entry_point_of_ones_own_drops_the_images_command() -> None:
    image = ImageDefaults(entrypoint=("/entry",), cmd=("default",))
    assert settings(image=image).args == ("/entry", "default")
    assert settings("image", "x", image=image).args == ("/entry", "x")
    assert settings("--entrypoint", "/other", image=image).args == ("/other",)
    assert settings("--entrypoint", "", "image", "x", image=image).args == ("x",)
    # A list as podman takes it; what only begins like one is a command.
    listed = settings("--entrypoint", '["/other", "a b"]', "image", "x", image=image)
    assert listed.args == ("/other", "a b", "x")
    for word in ("[", "[1]", '["a"'):
        assert settings("--entrypoint", word, image=image).args == (word,)
    with pytest.raises(InputError, match="no command"):
        settings("--entrypoint", "[]", image=image)
    with pytest.raises(InputError, match="no command: --entrypoint drops"):
        settings("--entrypoint", "", image=image)
    with pytest.raises(InputError, match="no command"):
        settings(image=ImageDefaults())


def test_variables_without_a_value_are_ours_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "here")
    made = settings("-e", "OURS", "-e", "NOT_SET_HERE", "-e", "A=")
    assert made.env == ("PATH=/bin", "A=", "OURS=here")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], 10 << 20), (["--log-opt", "max-size=64k"], 64 << 10),
        (["--log-opt", "max-size=-1"], 0),  # as docker has it: without end, and not without a log
        (["--log-driver", "none"], -1),
    ],
)  # fmt: skip
def test_how_long_logs_grow(words: list[str], wanted: int) -> None:
    assert settings(*words, image=ImageDefaults(cmd=("x",))).log_max_bytes == wanted


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "0"], ["-m", "0", "--memory-swap", "0"], ["--cpus", "0"], ["--cpus", "0.0"],
        ["--cpu-quota", "0"], ["--cpu-quota=-1"], ["--cpu-period", "0"], ["-c", "0"],
        ["--memory-reservation", "0"], ["--blkio-weight", "0"], ["--pids-limit", "0"],
    ],
)  # fmt: skip
def test_no_limit_is_docker_s_zero(words: list[str]) -> None:
    plain, made = settings(), settings(*words)
    assert (made.limits, made.pids) == (plain.limits, plain.pids)


def test_settings_survive_their_record() -> None:
    import json

    made = settings(
        "-v", "vol:/v:ro", "--ulimit", "nofile=10:20", "--device", "/dev/null", "-m", "1g"
    )
    assert settings_from_json(json.loads(json.dumps(made._asdict()))) == made


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("name:/t", MountRequest("volume", "name", "/t")),
        ("name:/t:ro", MountRequest("volume", "name", "/t", ("ro",))),
        ("name:/t:nocopy", MountRequest("volume", "name", "/t", copy=False)),
        ("/:/host:ro,rslave", MountRequest("bind", "/", "/host", ("ro", "rslave"))),
        ("/t", MountRequest("volume", "", "/t", anonymous=True)),
    ],
)
def test_volume_words(word: str, wanted: MountRequest) -> None:
    assert settings("-v", word, image=ImageDefaults(cmd=("x",))).mounts == (wanted,)


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("type=bind,source=/,target=/t,readonly", MountRequest("bind", "/", "/t", ("ro",))),
        ("source=v,dst=/t", MountRequest("volume", "v", "/t")),
        ("type=tmpfs,target=/t,tmpfs-size=1k,tmpfs-mode=700",
         MountRequest("tmpfs", "", "/t", ("size=1024", "mode=700"))),
        ("type=bind,src=/,target=/t,bind-propagation=rslave",
         MountRequest("bind", "/", "/t", ("rslave",))),
        ('type=bind,"src=/",target=/t,RO', MountRequest("bind", "/", "/t", ("ro",))),
        ('"type=volume","dst=/a,""b""",source=v', MountRequest("volume", "v", '/a,"b"')),
    ],
)  # fmt: skip
def test_mount_words(word: str, wanted: MountRequest) -> None:
    assert settings("--mount", word, image=ImageDefaults(cmd=("x",))).mounts == (wanted,)


def test_the_source_of_a_mount_may_have_commas(tmp_path) -> None:
    source = f"{tmp_path}/a,b"
    os.mkdir(source)
    (mount,) = settings(
        "--mount", f'type=bind,"src={source}",dst=/x', image=ImageDefaults(cmd=("x",))
    ).mounts
    assert (mount.source, mount.target) == (source, "/x")
    with pytest.raises(InputError, match="'b' is not NAME=VALUE") as refused:
        settings("--mount", f"type=bind,src={source},dst=/x")
    assert '"source=/a,b"' in (refused.value.hint or "")


@pytest.mark.parametrize(
    "words",
    [
        ["-v", "a:b"], ["-v", "a:/b:c:d"], ["-v", "a:/"], ["-v", "a:/b:rw,what"], ["-v", "../x"],
        ["-v", "-x:/y"], ["--mount", "type=bind,source=/nowhere/at/all,target=/t"],
        ["--mount", "type=npipe,target=/t"], ["--mount", "target=t"], ["--mount", "type=volume"],
        ["--mount", 'type=bind,src="/a,b",dst=/x'], ["--mount", 'type=bind,"src=/,dst=/x'],
        ["--mount", "type=bind,src,dst=/x"],
        ["--tmpfs", "x"], ["-v", "a:/t", "-v", "b:/t"], ["--network", "bridge"],
        ["--restart", "sometimes"], ["--restart", "always:3"], ["--restart", "on-failure:x"],
        ["--rm", "--restart", "always"], ["-w", "relative"], ["-h", "no name"], ["-h", "x" * 80],
        ["--cap-add", "FLY"], ["--security-opt", "apparmor"], ["--security-opt", "label=x:y"],
        ["--security-opt", "seccomp=/no/such/file"], ["--dns", "name"], ["--device", "null"],
        ["--device", "/a:/b:/c"], ["--sysctl", "a"], ["--sysctl", "net.ipv4.ip_forward=1"],
        ["--stop-signal", "SIGNOTHING"], ["--pids-limit", "-5"], ["-e", "=x"], ["-l", "=x"],
        ["--userns", "container:x"], ["--log-opt", "max-file=0"], ["--log-opt", "a=b"],
        ["--oom-score-adj", "2000"], ["-e", "A=\0"], ["--privileged", "--userns", "auto"],
        ["--env-file", "/no/such/file"], ["--memory", "1m"], ["--memory-swap", "1g"],
    ],
)  # fmt: skip
def test_words_that_mean_nothing_are_refused(words: list[str]) -> None:
    with pytest.raises(InputError):
        settings(*words)


@pytest.mark.parametrize("words", [["-a", "stdin"], ["-p", "80"], ["-P"], ["--dns-opt", "x"]])
def test_so_it_is_by_its_other_names(words: list[str]) -> None:
    with pytest.raises(InputError, match=r"^run has no --"):
        refuse_unsupported(fast.parse("run", [*words, "image"]), "run")


@pytest.mark.parametrize("option", REFUSED)
def test_what_docker_has_and_we_have_not_is_told_with_what_to_do(option: str) -> None:
    flags = {"--publish-all", "--oom-kill-disable"}
    words = [option] if option in flags else [option, "value"]
    options = fast.parse("run", [*words, "image"])
    with pytest.raises(InputError, match=f"^run has no {option}: "):
        refuse_unsupported(options, "run")


def test_env_file_tells_the_line(tmp_path) -> None:
    path = tmp_path / "env"
    path.write_text("A=1\nnot a name=2\n")
    with pytest.raises(InputError, match="line 2"):
        settings("--env-file", str(path))


@pytest.mark.parametrize(
    ("word", "number"), [("9", 9), ("kill", 9), ("SIGTERM", 15), ("SIGRTMIN+3", 37), ("HUP", 1)]
)
def test_signals(word: str, number: int) -> None:
    assert signal_number(word) == number


@pytest.mark.parametrize("word", ["0", "99", "RTMIN+x", "TERM+1", "", "-1", "x"])
def test_no_signals(word: str) -> None:
    with pytest.raises(InputError):
        signal_number(word)


def test_capabilities_as_docker_has_them() -> None:
    every = EVERY_CAPABILITY
    assert set(capabilities_of((), (), every)) == set(DEFAULT_CAPABILITIES)
    assert capabilities_of((), ("ALL",), every) == []
    assert capabilities_of(("CAP_CHOWN",), ("ALL",), every) == ["CAP_CHOWN"]
    assert "CAP_CHOWN" not in capabilities_of(("ALL",), ("CAP_CHOWN",), every)
    assert "CAP_SYS_ADMIN" in capabilities_of(("CAP_SYS_ADMIN",), (), every)
    assert capabilities_of(("ALL",), (), 1) == ["CAP_CHOWN"]  # nobody can give what he has not
