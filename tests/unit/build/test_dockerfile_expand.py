"""Variables and quotes: what words mean, and which fields of instructions are words."""

import pytest

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.expand import (
    NOWHERE,
    Expansion,
    expand_instruction,
    expand_word,
    expand_words,
)
from layerstore.build.dockerfile.parser import parse_dockerfile, parse_instruction
from layerstore.build.dockerfile.syntax import (
    Add,
    Arg,
    Cmd,
    Copy,
    Env,
    Expose,
    Instruction,
    Label,
    Run,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from layerstore.build.dockerfile.variables import Variables
from layerstore.errors import LimitExceededError

ENV = {
    "HOME": "/root",
    "NULL": "",
    "V": "1.2.3",
    "P": "/a/foo/b/foo.tar.gz",
    "SP": "one two",
    "STAR": "x*y",
    "한국": "서울",
}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("", ""),
        ("plain", "plain"),
        ("a b", "a b"),
        ("$HOME", "/root"),
        ("${HOME}", "/root"),
        ("x${HOME}y", "x/rooty"),
        ("$HOME/bin:$V", "/root/bin:1.2.3"),
        ("$HOMEx", ""),
        ("$한국!", "서울!"),
        ("a$", "a$"),
        ("a$.b", "a$.b"),
        ("$$HOME", "HOME"),  # $$ is a parameter that is never set
        ("$1x${1}", "x"),
        ("$@$*$#$?$-$!", ""),
        ("'$HOME'", "$HOME"),
        ("'a\\'", "a\\"),
        ('"$HOME"', "/root"),
        ('"\\$HOME"', "$HOME"),
        ('"a\\"b"', 'a"b'),
        ('"a\\b"', "a\\b"),
        ('"a\\\\b"', "a\\b"),
        ('"it\'s"', "it's"),
        ("'say \"x\"'", 'say "x"'),
        ("\\$HOME", "$HOME"),
        ("a\\b", "ab"),
        ("a\\\\b", "a\\b"),
        ("a\\ b", "a b"),
        ("end\\", "end"),
        ('"end"\\', "end"),
        ("a'b'\"c\"d", "abcd"),
        ("${X-d}${NULL-d}${V-d}", "d1.2.3"),
        ("${X:-d}${NULL:-d}${V:-d}", "dd1.2.3"),
        ("${X+a}${NULL+a}${V+a}", "aa"),
        ("${X:+a}${NULL:+a}${V:+a}", "a"),
        ("${V?no}${NULL?no}", "1.2.3"),
        ("${V:?no}", "1.2.3"),
        ("${X:-${Y:-${HOME}}}", "/root"),
        ("${X:-a b}", "a b"),
        ("${X:-'$HOME'}", "$HOME"),
        ('${X:-"a}b"}', "a}b"),
        ("${X:-a\\}b}", "a}b"),
        ("${V#1.}", "2.3"),
        ("${V#*.}", "2.3"),
        ("${V##*.}", "3"),
        ("${V%.*}", "1.2"),
        ("${V%%.*}", "1"),
        ("${V%x}", "1.2.3"),
        ("${V#?}", ".2.3"),
        ("${V#}${V##}${V%}", "1.2.31.2.31.2.3"),
        ("${X#a}", ""),
        ("${STAR#x\\*}", "y"),
        ("${STAR%\\**}", "x"),
        ("${P##*/}", "foo.tar.gz"),
        ("${P%%.*}", "/a/foo/b/foo"),
        ("${P#$HOME}", "/a/foo/b/foo.tar.gz"),
        ("${P/foo/bar}", "/a/bar/b/foo.tar.gz"),
        ("${P//foo/bar}", "/a/bar/b/bar.tar.gz"),
        ("${P//\\//_}", "_a_foo_b_foo.tar.gz"),
        ("${P/f?o/X}", "/a/X/b/foo.tar.gz"),
        ("${P/f*o/X}", "/a/X.tar.gz"),
        ("${P//*/X}", "X"),
        ("${V//./}", "123"),
        ("${V///-}", "-1-.-2-.-3-"),
        ("${V//none/x}", "1.2.3"),
        ("${X/a/b}", ""),
    ],
)
def test_word_means(word: str, expected: str) -> None:
    assert expand_word(word, ENV) == expected


@pytest.mark.parametrize(
    "word",
    [
        "'open",
        '"open',
        "${",
        "${}",
        "${:-a}",
        "${{a}",
        "${HOME",
        "${HOME:",
        "${HOME:x}",
        "${HOME=a}",
        "${HOME^^}",
        "${HOME:-a",
        "${HOME:-'a}",
        "${X?}",
        "${X:?must be given}",
        "${NULL:?}",
        "${X:-${Y:?}}",
        "${HOME:-${X:?evaluated although not used}}",
        "${V/1}",
        "${V//}",
        "${V#\\x}",
        "${V#a\\\\\\}",
        "${1:-a}",
        "${?:-a}",
    ],
)
def test_word_is_refused(word: str) -> None:
    with pytest.raises(SpecError):
        expand_word(word, ENV)


def test_message_of_a_required_variable_is_the_authors() -> None:
    with pytest.raises(SpecError, match=r"X: needs /root$"):
        expand_word("${X:?needs $HOME}", ENV)


def test_the_escape_can_be_the_backtick() -> None:
    assert expand_word("C:\\$V`$V", ENV, "`") == "C:\\1.2.3$V"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("", []),
        ("  ", []),
        ("a b", ["a", "b"]),
        (" a\t b ", ["a", "b"]),
        ("$SP", ["one", "two"]),
        ('"$SP"', ["one two"]),
        ("x$SP'y z'", ["xone", "twoy z"]),
        ("a\\ b", ["a b"]),
        ("$NULL", []),
        ("'' a", ["a"]),
        ("${X:-80 443}", ["80", "443"]),
    ],
)
def test_words_are_split_behind_variables(word: str, expected: list[str]) -> None:
    assert expand_words(word, ENV) == expected


def one(text: str) -> Instruction:
    return parse_dockerfile(b"FROM scratch\n" + text.encode()).stages[0].instructions[0]


def expanded(text: str) -> Instruction:
    return expand_instruction(one(text), ENV)


def test_pairs_see_the_environment_before_them() -> None:
    env = expanded('ENV V=2 W=$V X="a $V"')
    assert isinstance(env, Env)
    assert [(p.key, p.value) for p in env.pairs] == [("V", "2"), ("W", "1.2.3"), ("X", "a 1.2.3")]


def test_fields_with_variables() -> None:
    label = expanded("LABEL $V=$HOME")
    assert isinstance(label, Label)
    assert (label.pairs[0].key, label.pairs[0].value) == ("1.2.3", "/root")
    arg = expanded("ARG A B=$V")
    assert isinstance(arg, Arg)
    assert [(a.name, a.default) for a in arg.args] == [("A", None), ("B", "1.2.3")]
    workdir = expanded("WORKDIR $HOME/x")
    assert isinstance(workdir, Workdir)
    assert workdir.path == "/root/x"
    user = expanded("USER ${X:-app}")
    assert isinstance(user, User)
    assert user.user == "app"
    volume = expanded('VOLUME ["$HOME", "/a b"]')
    assert isinstance(volume, Volume)
    assert volume.paths == ("/root", "/a b")
    signal = expanded("STOPSIGNAL ${X:-SIGINT}")
    assert isinstance(signal, StopSignal)
    assert signal.signal == "SIGINT"


def test_ports_are_counted_out_and_sorted() -> None:
    env = {"WEB": "8080 80", "N": "9"}
    port = expand_instruction(one("EXPOSE $WEB 53/UDP 20-22 127.0.0.1:1:7 $N"), env)
    assert isinstance(port, Expose)
    assert port.ports == (
        "7/tcp",
        "9/tcp",
        "20/tcp",
        "21/tcp",
        "22/tcp",
        "53/udp",
        "80/tcp",
        "8080/tcp",
    )


def test_copy_and_its_flags() -> None:
    copy = expanded("COPY --chown=$X:${X:-g} --chmod=${M:-u+x} --exclude=$V* $P ${X:-b}* $HOME/")
    assert isinstance(copy, Copy)
    assert (copy.chown, copy.chmod, copy.exclude) == (":g", "u+x", ("1.2.3*",))
    assert (copy.sources, copy.dest) == (("/a/foo/b/foo.tar.gz", "b*"), "/root/")


def test_flag_that_expands_to_nothing_is_absent() -> None:
    copy = expanded("COPY --chown=$NULL a b")
    assert isinstance(copy, Copy)
    assert copy.chown is None


@pytest.mark.parametrize(
    "text",
    [
        "COPY --chmod=$V a b",
        "COPY --chown=${X:-a b} a b",
        "ADD --checksum=$V a b",
        "VOLUME $NULL",
        "VOLUME ${X:-/}",
        "EXPOSE $HOME",
        "STOPSIGNAL $V",
        "ARG $NULL=1",
        "ENV $NULL=1",
        "RUN --mount=type=$V,target=/x true",
        "RUN --mount=type=cache,uid=$V,target=/x true",
    ],
)
def test_value_is_checked_once_it_is_known(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        expanded(text)
    assert caught.value.line == 2


def test_from_must_not_expand_to_nothing() -> None:
    start = parse_dockerfile(b"FROM $X\n").stages[0].from_
    with pytest.raises(SpecError, match="expands to nothing"):
        expand_instruction(start, {})
    assert expand_instruction(start, {"X": "a:1"}).base == "a:1"


def test_heredoc_content_is_expanded_without_quotes() -> None:
    copy = expanded("COPY <<-A <<'B' /x/\n\t'$V' \"q\" \\$V \\n\nA\n$V\nB\n")
    assert isinstance(copy, Copy)
    assert [h.content for h in copy.heredocs] == ["'1.2.3' \"q\" $V n\n", "$V\n"]
    again = expand_instruction(copy, {})
    assert again == copy


def test_mounts_are_resolved() -> None:
    run = expanded("RUN --mount=type=cache,target=$HOME/.cache,id=${X:-c},ro=false true")
    assert isinstance(run, Run)
    mount = run.mounts[0]
    assert (mount.resolved, mount.target, mount.id) == (True, "/root/.cache", "c")
    assert mount.readonly is False


def test_commands_keep_their_variables() -> None:
    cmd = expanded("CMD echo $HOME")
    assert isinstance(cmd, Cmd)
    assert cmd.command.shell == "echo $HOME"


def test_scripts_of_run() -> None:
    def script(text: str) -> tuple[str, str | None] | None:
        run = one(text)
        assert isinstance(run, Run)
        made = run.script()
        return None if made is None else (made.text, made.file_name)

    assert script('RUN ["a"]') is None
    assert script("RUN a b") == ("a b", None)
    assert script("RUN <<E\na\nE\n") == ("a\n", None)
    assert script("RUN <<-E\n\t#!/bin/x\n\ta\nE\n") == ("#!/bin/x\na\n", None)
    assert script("RUN <<E.py\n#!/bin/x\nE.py\n") == ("#!/bin/x\n", "E.py")
    assert script("RUN cat <<A <<-B\n1\nA\n\t2\n\tB\n") == ("cat <<A <<-B\n1\nA\n\t2\nB", None)


def test_onbuild_triggers_come_back() -> None:
    onbuild = one("ONBUILD RUN --network=none <<E\nx\nE\n")
    trigger = onbuild.trigger  # type: ignore[attr-defined]
    run = parse_instruction(trigger)
    assert isinstance(run, Run)
    assert (run.network, run.script()) == ("none", one("RUN <<E\nx\nE\n").script())  # type: ignore[attr-defined]
    for bad in ("", "FROM a", "ONBUILD RUN a", "RUN a\nRUN b", "\udcff"):
        with pytest.raises(SpecError):
            parse_instruction(bad)


def test_stages_by_name_and_number() -> None:
    tree = parse_dockerfile(b"FROM a AS x\nFROM b AS Y\nFROM c AS x\n")
    found = [tree.stage_named(name) for name in ("X", "y", "0", "3", "z")]
    assert [stage and stage.index for stage in found] == [2, 1, 0, None, None]


def test_doubling_meets_a_limit() -> None:
    value = "x" * 2**10
    for _ in range(8):
        value = expand_word("$A$A", {"A": value})
    assert len(value) == 2**18
    with pytest.raises(LimitExceededError):
        expand_word("$A$A", {"A": value})


def test_environment_meets_a_limit() -> None:
    env = Variables({str(i): "x" * 2**18 for i in range(15)})
    env.check(NOWHERE)
    env["15"] = "x" * 2**18
    with pytest.raises(LimitExceededError, match="characters"):
        env.check(NOWHERE)


def test_what_a_variable_no_longer_holds_is_not_counted() -> None:
    env = Variables()
    for _ in range(20):
        env["a"] = "x" * 2**18
        env["b"] = "x" * 2**18
        del env["b"]
    env.check(NOWHERE)


def test_many_variables_meet_a_limit() -> None:
    env = Variables({str(i): "" for i in range(4096)})
    env.check(NOWHERE)
    env["one more"] = ""
    with pytest.raises(LimitExceededError, match="too many variables"):
        env.check(NOWHERE)


def test_the_words_of_a_file_have_one_allowance() -> None:
    expansion = Expansion(allowance=30)
    env = {"A": "x" * 10}
    assert expansion.word("${A}y", env, NOWHERE) == "x" * 10 + "y"
    assert expansion.words("$A", env, NOWHERE) == ["x" * 10]
    assert expansion.unset("$A$B", env) == ["B"]
    assert expansion.word("plain" * 10, env, NOWHERE) == "plain" * 10
    with pytest.raises(LimitExceededError, match="limit 30"):
        expansion.word("$A", env, NOWHERE)
    with pytest.raises(LimitExceededError, match="limit 30"):
        expansion.word("plain", env, NOWHERE)


def test_the_words_of_one_instruction_share_the_allowance() -> None:
    env, values = parse_instruction("ENV a=$A b=$A c=$A d=$A"), {"A": "x" * 10}
    assert isinstance(env, Env)
    assert Expansion(allowance=40).instruction(env, values).pairs[3].value == "x" * 10
    with pytest.raises(LimitExceededError):
        Expansion(allowance=39).instruction(env, values)


def test_many_trims_of_a_long_value_meet_a_limit() -> None:
    env = {"A": "x" * 2**17}
    with pytest.raises(LimitExceededError):
        expand_word("${A##*y}" * 1000, env)
    with pytest.raises(LimitExceededError):
        expand_word("${A//x/" + "y" * 100 + "}", env)


def test_add_unpack_has_three_states() -> None:
    states = [one(f"ADD {flag} a b") for flag in ("", "--unpack", "--unpack=false")]
    assert [item.unpack for item in states if isinstance(item, Add)] == [None, True, False]
