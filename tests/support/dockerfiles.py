"""Syntax trees as text: a dump for golden files, and Dockerfile text for round trips.

``python -m tests.support.dockerfiles`` writes the golden files anew; read the diff.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.parser import parse_dockerfile
from layerstore.build.dockerfile.syntax import (
    Add,
    Arg,
    Cmd,
    CommandLine,
    Copy,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    SourceSpan,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from layerstore.errors import LayerstoreError

GOLDEN = Path(__file__).parent.parent / "golden" / "dockerfile"


def cases(*, failing: bool) -> list[Path]:
    return sorted(p for p in GOLDEN.iterdir() if p.name.startswith("should-fail-") == failing)


def result_of(case: Path) -> str:
    """Return what a golden case's Dockerfile gives: its tree or its error."""
    try:
        tree = parse_dockerfile((case / "Dockerfile").read_bytes(), "Dockerfile")
    except LayerstoreError as err:
        lines = [f"{type(err).__name__}: {err.message}"]
        if err.hint:
            lines.append(f"hint: {err.hint}")
        if isinstance(err, SpecError) and err.excerpt():
            lines.append(err.excerpt())
        return "\n".join(lines) + "\n"
    return dump(tree)


def dump(tree: Dockerfile) -> str:
    lines = [f"escape {tree.escape}"]
    lines += [f"directive {each.name}={each.value}" for each in tree.directives]
    lines += [f"notice {notice}" for notice in tree.notices]
    lines += [_instruction(arg, "") for arg in tree.global_args]
    for stage in tree.stages:
        lines.append(_instruction(stage.from_, ""))
        lines += [_instruction(instruction, "  ") for instruction in stage.instructions]
    return "\n".join(lines) + "\n"


def _instruction(item: Instruction, indent: str) -> str:
    span = item.span
    lines = [f"{indent}{item.KEYWORD} {span.line}:{span.column}-{span.end_line} {item.original!r}"]
    for field in msgspec.structs.fields(item):
        if field.name in ("span", "original", "flags"):
            continue
        value = getattr(item, field.name)
        if field.default is not msgspec.NODEFAULT and value == field.default:
            continue
        if isinstance(value, Instruction):
            lines.append(_instruction(value, indent + "    "))
        else:
            lines.append(f"{indent}    {field.name} {_value(value)}")
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, SourceSpan):
        return f"{value.line}:{value.column}"
    if not isinstance(value, msgspec.Struct):
        return repr(value)
    shown = []
    for field in msgspec.structs.fields(value):
        inner = getattr(value, field.name)
        if field.default is msgspec.NODEFAULT or inner != field.default:
            shown.append(f"{field.name}={_value(inner)}")
    return f"{type(value).__name__}({', '.join(shown)})"


def render(tree: Dockerfile) -> str:
    """Return a Dockerfile that parses to the same tree, but for places."""
    lines = [f"# {each.name}={each.value}" for each in tree.directives]
    lines += [render_instruction(arg) for arg in tree.global_args]
    for stage in tree.stages:
        platform = f"--platform={stage.platform} " if stage.platform else ""
        name = f" AS {stage.name}" if stage.name else ""
        lines.append(f"FROM {platform}{stage.base}{name}")
        lines += [render_instruction(item) for item in stage.instructions]
    return "\n".join(lines) + "\n"


def render_instruction(item: Instruction) -> str:
    flags = "".join(f"--{f.name}{'' if f.value is None else '=' + f.value} " for f in item.flags)
    return f"{item.KEYWORD} {flags}{_arguments(item)}"


def _arguments(item: Instruction) -> str:
    match item:
        case Arg():
            return " ".join(
                a.name if a.default is None else f"{a.name}={a.default}" for a in item.args
            )
        case Env() | Label():
            if item.pairs[0].legacy:
                return f"{item.pairs[0].key} {item.pairs[0].value}"
            return " ".join(f"{pair.key}={pair.value}" for pair in item.pairs)
        case Run() | Cmd() | Entrypoint():
            return _command(item.command)
        case Copy() | Add():
            return _transfer(item)
        case Expose():
            return " ".join(item.ports)
        case Volume():
            return json.dumps(item.paths)
        case Shell():
            return json.dumps(item.argv)
        case Healthcheck():
            return "NONE" if item.command is None else f"CMD {_command(item.command)}"
        case Onbuild():
            return render_instruction(item.instruction)
        case Workdir(path=text) | User(user=text) | StopSignal(signal=text) | Maintainer(name=text):
            return text
    raise AssertionError(item)


def _command(command: CommandLine) -> str:
    if command.argv is not None:
        return json.dumps(command.argv)
    bodies = "".join(f"\n{each.content}{each.name}" for each in command.heredocs)
    return f"{command.shell}{bodies}"


def _transfer(item: Copy | Add) -> str:
    if not item.heredocs:
        return json.dumps([*item.sources, item.dest])
    openings = [
        f"<<{'-' * each.chomp}{each.name if each.expand else json.dumps(each.name)}"
        for each in item.heredocs
    ]
    bodies = "".join(f"\n{each.content}{each.name}" for each in item.heredocs)
    return " ".join([*item.sources, *openings, item.dest]) + bodies


def without_places(value: Any) -> Any:
    """Return a tree as plain values, without spans and the texts they were written as."""
    if isinstance(value, tuple):
        return tuple(without_places(item) for item in value)
    if not isinstance(value, msgspec.Struct):
        return value
    left_out = ("span", "original", "trigger")
    names = (name for name in value.__struct_fields__ if name not in left_out)
    return (type(value).__name__, *(without_places(getattr(value, name)) for name in names))


def main() -> None:
    for case in (*cases(failing=False), *cases(failing=True)):
        (case / "result").write_text(result_of(case))


if __name__ == "__main__":
    main()
