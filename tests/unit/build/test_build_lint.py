"""Build checks: which rule says what, where."""

from __future__ import annotations

import pytest

from layerstore.build.dockerfile.checks import CheckOptions, parse_check
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.parser import parse_dockerfile
from layerstore.build.dockerfile.syntax import SourceSpan
from layerstore.build.ignore import IgnoreRules
from layerstore.build.lint.lint import lint
from layerstore.build.lint.meaning import Surroundings
from layerstore.build.lint.rules import RULES
from layerstore.build.platforms import Platform
from layerstore.errors import LimitExceededError
from layerstore.formats.oci_config import ContainerConfig, ImageConfig

AMD64 = Platform("linux", "amd64")
NOWHERE = SourceSpan("x", 1, 1, 1)
KNOWN = {
    "alpine": ImageConfig(
        architecture="amd64", os="linux", config=ContainerConfig(env=("PATH=/bin", "BASED=1"))
    ),
    "powershell": ImageConfig(
        architecture="amd64", os="linux", config=ContainerConfig(shell=("pwsh", "-c"))
    ),
    "arm": ImageConfig(architecture="arm64", os="linux"),
}


def found(text: str, *, ignore: str = "", **build_args: str) -> list[tuple[str, int, str]]:
    """Return rule, line and detail of everything found."""
    around = Surroundings(build_args, AMD64, AMD64, KNOWN.get, IgnoreRules.parse(ignore.encode()))
    tree = parse_dockerfile(text.encode())
    return [
        (each.rule.name, each.span.line, each.detail)
        for each in lint(tree, text.split("\n"), around)
    ]


def places(text: str, **build_args: str) -> list[tuple[str, int]]:
    return [(rule, line) for rule, line, _ in found(text, **build_args)]


# ruff: noqa: ISC004 -- messages longer than a line
CASES = [
    ("FROM scratch AS Big", [("StageNameCasing", 1, "Stage name 'Big' should be lowercase")]),
    (
        "FROM scratch as base",
        [("FromAsCasing", 1, "'as' and 'FROM' keywords' casing do not match")],
    ),
    (
        "from scratch AS base",
        [("FromAsCasing", 1, "'AS' and 'from' keywords' casing do not match")],
    ),
    (
        "From scratch as base\nFROM scratch AS base2",
        [
            (
                "ConsistentInstructionCasing",
                1,
                "Command 'From' should match the case of the command majority (uppercase)",
            )
        ],
    ),
    (
        "from scratch\nCOPY a /foo\ncopy a /bar",
        [
            (
                "ConsistentInstructionCasing",
                2,
                "Command 'COPY' should match the case of the command majority (lowercase)",
            )
        ],
    ),
    ("FROM scratch\nCOPY a \\\n\n/b", [("NoEmptyContinuation", 3, "Empty continuation line")]),
    (
        "FROM scratch AS b\nFROM scratch AS b",
        [("DuplicateStageName", 2, 'Duplicate stage name "b", stage names should be unique')],
    ),
    (
        "FROM scratch AS context",
        [
            (
                "ReservedStageName",
                1,
                'Stage name should not use the same name as reserved stage "context"',
            )
        ],
    ),
    (
        "FROM alpine\nCMD x",
        [
            (
                "JSONArgsRecommended",
                2,
                "JSON arguments recommended for CMD to prevent unintended behavior related to OS "
                "signals",
            )
        ],
    ),
    (
        "FROM scratch\nMAINTAINER me",
        [
            (
                "MaintainerDeprecated",
                2,
                "Maintainer instruction is deprecated in favor of using label",
            )
        ],
    ),
    (
        "FROM --platform=$BULIDPLATFORM scratch",
        [
            (
                "UndefinedArgInFrom",
                1,
                "FROM argument 'BULIDPLATFORM' is not declared (did you mean BUILDPLATFORM?)",
            )
        ],
    ),
    (
        "ARG tag=latest\nFROM busybox:${tag}${version} AS b",
        [("UndefinedArgInFrom", 2, "FROM argument 'version' is not declared")],
    ),
    (
        "FROM scratch\nWORKDIR app/",
        [
            (
                "WorkdirRelativePath",
                2,
                'Relative workdir "app/" can have unexpected results if the base image changes',
            )
        ],
    ),
    (
        "FROM alpine\nCOPY $foo .\nARG foo=bar\nRUN echo $foo",
        [("UndefinedVar", 2, "Usage of undefined variable '$foo'")],
    ),
    (
        "FROM alpine\nARG DIR_ASSETS=assets/\nCOPY $DIR_ASSET .",
        [
            (
                "UndefinedVar",
                3,
                "Usage of undefined variable '$DIR_ASSET' (did you mean $DIR_ASSETS?)",
            )
        ],
    ),
    (
        "FROM alpine\nENV PATH=$PAHT:/tmp/bin",
        [("UndefinedVar", 2, "Usage of undefined variable '$PAHT' (did you mean $PATH?)")],
    ),
    (
        "FROM scratch\nENV a 1\nLABEL b 2",
        [
            (
                "LegacyKeyValueFormat",
                2,
                '"ENV key=value" should be used instead of legacy "ENV key value" format',
            ),
            (
                "LegacyKeyValueFormat",
                3,
                '"LABEL key=value" should be used instead of legacy "LABEL key value" format',
            ),
        ],
    ),
    (
        "FROM --platform=${TARGETPLATFORM} scratch",
        [
            (
                "RedundantTargetPlatform",
                1,
                "Setting platform to predefined ${TARGETPLATFORM} in FROM is redundant as this is "
                "the default behavior",
            )
        ],
    ),
    (
        "FROM scratch\nARG auth=x\nENV git_key= PUBLIC_KEY= TOKEN_FILE=/x",
        [
            (
                "SecretsUsedInArgOrEnv",
                2,
                'Do not use ARG or ENV instructions for sensitive data (ARG "auth")',
            ),
            (
                "SecretsUsedInArgOrEnv",
                3,
                'Do not use ARG or ENV instructions for sensitive data (ENV "git_key")',
            ),
        ],
    ),
    (
        "FROM --platform=linux/amd64 scratch",
        [
            (
                "FromPlatformFlagConstDisallowed",
                1,
                'FROM --platform flag should not use constant value "linux/amd64"',
            )
        ],
    ),
    (
        "FROM arm",
        [
            (
                "InvalidBaseImagePlatform",
                1,
                'Base image arm was pulled with platform "linux/arm64", expected "linux/amd64" '
                "for current build",
            )
        ],
    ),
    (
        "FROM scratch\nEXPOSE 80/TcP",
        [
            (
                "ExposeProtoCasing",
                2,
                "Defined protocol '80/TcP' in EXPOSE instruction should be lowercase",
            )
        ],
    ),
    (
        "FROM scratch\nENV P=127.0.0.1:80:80\nEXPOSE $P",
        [
            (
                "ExposeInvalidFormat",
                3,
                "EXPOSE instruction should not define an IP address or host-port mapping, "
                "found '127.0.0.1:80:80'",
            )
        ],
    ),
]


@pytest.mark.parametrize(("text", "wanted"), CASES, ids=lambda each: str(each)[:40])
def test_rules_say_what_docker_says(text: str, wanted: list[tuple[str, int, str]]) -> None:
    assert found(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "FROM scratch AS b1\nFROM b1 AS b2\nCOPY --from=b1 /x /y",
        "ARG base=scratch\nFROM $base\nCOPY a .",
        "ARG DEBUG\nFROM scratch${DEBUG}",
        "ARG DEBUG\nFROM scra${DEBUG:-tch}",
        "FROM scratch\nARG foo\nCOPY a${foo} .",
        "FROM alpine AS base\nARG foo=a\nFROM base\nCOPY $foo .",
        "FROM alpine\nRUN echo $NOWHERE\nENV x=$BASED y=${NOWHERE:-z} z=${NOWHERE+w}",
        "FROM unknown\nENV x=$FROM_THE_BASE\nWORKDIR $FROM_THE_BASE",
        'FROM scratch\nSHELL ["/x"]\nCMD y',
        'FROM scratch AS base\nSHELL ["/x"]\nFROM base\nENTRYPOINT y',
        "FROM powershell\nCMD y",
        "FROM scratch AS a\nWORKDIR /app\nFROM a AS b\nWORKDIR below",
        'FROM scratch AS a\nCMD ["x"]\nFROM a\nCMD ["y"]',
        "FROM --platform=linux/amd64 scratch AS my_amd64_stage",
        "FROM --platform=$BUILDPLATFORM scratch",
        "FROM scratch\nCOPY <<'E' /x\n$nothing\nE",
        "# this is no name\nARG foo=1\n# nor this\nFROM scratch AS x",
    ],
)
def test_what_is_right_is_not_told(text: str) -> None:
    assert found(text) == []


def test_only_the_last_of_some_instructions_counts() -> None:
    text = 'FROM scratch\nCMD ["a"]\nHEALTHCHECK CMD ["a"]\nCMD ["b"]\nHEALTHCHECK NONE\nCMD ["c"]'
    rule = "MultipleInstructionsDisallowed"
    assert places(text) == [(rule, 2), (rule, 3), (rule, 4)]


def test_defaults_of_a_base_are_judged_without_build_arguments() -> None:
    rule = "InvalidDefaultArgInFrom"
    assert places("ARG V\nFROM busybox:$V", V="latest") == [(rule, 2)]
    assert places("ARG I\nFROM $I", I="busybox") == [(rule, 2)]
    assert places("ARG V=x\nFROM busybox:${V}", V="y") == []
    assert places("ARG V\nFROM busybox:stable${V}", V="-musl") == []


def test_heredocs_and_mounts_use_variables_too() -> None:
    text = "FROM scratch\nCOPY <<E /x\n'$one'\nE\nRUN --mount=type=cache,target=$two true"
    assert places(text) == [("UndefinedVar", 2), ("UndefinedVar", 5)]


def test_experimental_rules_run_when_asked_for() -> None:
    text = (
        "# check=experimental=all\n# foo is right\nARG foo\n# BasE is wrong\nFROM scratch AS base\n"
        "# wrong\nARG a b\nCOPY Dockerfile /\nADD not/ /x\nCOPY --from=base Dockerfile /"
    )
    details = [(line, detail) for _, line, detail in found(text, ignore="Dockerfile\nnot\n!not/y")]
    assert details == [
        (5, "Comment for FROM should follow the format: `# base <description>`"),
        (7, "Comment for ARG should follow the format: `# <arg_key> <description>`"),
        (8, 'Attempting to Copy file "Dockerfile" that is excluded by .dockerignore'),
    ]
    assert found(text.replace("all", "CopyIgnoredFile"), ignore="x") == []
    assert found(text.partition("\n")[2], ignore="Dockerfile") == []


def test_rules_are_skipped_by_the_file_and_by_the_build_argument() -> None:
    text = "FROM scratch as base\ncopy a /\n"
    both = ["FromAsCasing", "ConsistentInstructionCasing"]
    assert [rule for rule, _, _ in found(text)] == both
    assert [rule for rule, _, _ in found("# check=skip=FromAsCasing\n" + text)] == both[1:]
    assert found("# check=skip=all\n" + text) == []
    given = {"BUILDKIT_DOCKERFILE_CHECK": "skip=all"}
    assert found(text, **given) == []
    given = {"BUILDKIT_DOCKERFILE_CHECK": "skip=ConsistentInstructionCasing;error=true"}
    assert [rule for rule, _, _ in found("# check=skip=all\n" + text, **given)] == both[:1]
    with pytest.raises(SpecError, match="BUILDKIT_DOCKERFILE_CHECK:1:1: 'x' is not an option"):
        found(text, BUILDKIT_DOCKERFILE_CHECK="x")


def test_options_of_checks_are_read() -> None:
    assert parse_check(" skip = a, b ; error=True", NOWHERE) == CheckOptions(
        frozenset("ab"), frozenset(), is_error=True
    )
    with pytest.raises(SpecError, match="error of a check cannot be 'maybe'"):
        parse_check("error=maybe", NOWHERE)


def test_every_rule_is_told_apart() -> None:
    """Each rule has a case above, and the names are docker's."""
    tested = {rule for _, wanted in CASES for rule, _, _ in wanted} | {
        "MultipleInstructionsDisallowed",
        "InvalidDefaultArgInFrom",
        "CopyIgnoredFile",
        "InvalidDefinitionDescription",
    }
    assert tested == set(RULES)


def test_hints_end_when_there_is_too_much_to_compare() -> None:
    """They once took minutes of a file of 100 kB: each unknown name was held beside each known."""
    names = range(2_000)
    text = "FROM scratch\nENV " + " ".join(f"VARIABLE_{i}=x" for i in names)
    text += "".join(f"\nLABEL l{i}=$VARIABEL_{i}" for i in names)
    details = [detail for rule, _, detail in found(text) if rule == "UndefinedVar"]
    assert len(details) == len(names)
    assert 0 < sum("did you mean" in detail for detail in details) < 10


@pytest.mark.parametrize(
    "lines",
    [
        [f"ENV k{i}=x" for i in range(5_000)],
        ["ENV " + " ".join(f"k{i}=x" for i in range(5_000))],
        [f"ARG k{i}" for i in range(5_000)],
    ],
    ids=["env", "one env", "arg"],
)
def test_too_many_variables_are_refused(lines: list[str]) -> None:
    with pytest.raises(LimitExceededError, match="too many variables"):
        found("\n".join(["FROM scratch", *lines]))


def test_variables_that_hold_each_other_stay_small() -> None:
    """They once took gigabytes of memory of a file of 1 MB."""
    lines = ["FROM scratch", "ENV big=" + "y" * 200_000]
    lines += [f"ENV k{i}=x$big" for i in range(100)]
    with pytest.raises(LimitExceededError, match="characters"):
        found("\n".join(lines))
