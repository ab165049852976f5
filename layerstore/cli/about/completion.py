"""``layerstore completion``: what a shell completes after ``layerstore``, as a script for it.

The words are in the script, so that a press of Tab starts no interpreter; names of images,
containers and volumes are asked of the store, by commands that answer in a few hundredths of a
second. Scripts: bash's programmable completion (bash(1)), zsh's ``_arguments`` (zshcompsys(1)),
fish's ``complete`` (complete(1)).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.about.completion_words import (
    ANYTHING,
    CONTAINERS,
    FILES,
    IMAGES,
    VOLUMES,
    commands,
)
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.cli.about.completion_words import Command, Operand, Option

_ASKED = (IMAGES, CONTAINERS, VOLUMES)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("completion")(completion)


def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="For which shell.")],
) -> None:
    """Print a script that completes commands, options and names in a shell.

    bash: source <(layerstore completion bash), in ~/.bashrc. zsh: layerstore completion zsh
    > DIR/_layerstore, for a DIR of $fpath. fish: layerstore completion fish >
    ~/.config/fish/completions/layerstore.fish.
    """
    sys.stdout.write(script_for(shell))


def script_for(shell: str) -> str:
    """Return the script that completes layerstore's words in a shell.

    Raises:
        InputError: There is none for that shell.
    """
    writers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    if shell not in writers:
        raise InputError(f"there is no completion for {shell!r}", hint=", ".join(writers))
    return writers[shell](commands())


# -- bash

_BASH = r"""# Completion of layerstore for bash, written by 'layerstore completion bash'.

__layerstore_commands='@COMMANDS@'

# Options of the command $1.
__layerstore_options() {
  case $1 in
@OPTIONS@
  esac
}

# What the value of the option $2 of the command $1 is; fails for options without.
__layerstore_value() {
  case "$1 $2" in
@VALUES@
  *) return 1 ;;
  esac
}

# What the operands of the command $1 are, in their order; "..." repeats the last.
__layerstore_operands() {
  case $1 in
@OPERANDS@
  esac
}

# What the operand number $2 of the command $1 is.
__layerstore_operand() {
  local -a kinds
  mapfile -t kinds < <(__layerstore_operands "$1")
  local last=$((${#kinds[@]} - 1))
  if ((last >= 0)) && [[ ${kinds[last]} == ... ]]; then
    unset "kinds[last]"
    ((last -= 1))
    (($2 > last)) && set -- "$1" "$last"
  fi
  echo "${kinds[$2]--}"
}

# Print the candidates of the kinds $1.
__layerstore_candidates() {
  local kind
  for kind in $1; do
    case $kind in
    -) ;;
    images) "${asked[@]}" images --format '{{.Repository}}:{{.Tag}}' | grep -v '<none>' ;;
    containers) "${asked[@]}" ps --all --format '{{.Names}}' ;;
    volumes) "${asked[@]}" volume ls --quiet ;;
    files) compgen -f -- "$2" ;;
    *) printf '%s\n' "${kind//|/$'\n'}" ;;
    esac
  done 2>/dev/null
}

_layerstore() {
  local -a words asked=("${COMP_WORDS[0]/#\~/$HOME}")
  local line=${COMP_LINE:0:COMP_POINT}
  read -ra words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=('')
  local last=$((${#words[@]} - 1)) command='' option='' count=0 word i
  local current=${words[last]} kinds head=''
  for ((i = 1; i < last; i++)); do
    word=${words[i]}
    if [[ $option == --store ]]; then
      asked+=(--store "${word/#\~/$HOME}")
      option=''
    elif [[ $option ]]; then
      option=''
    elif [[ $word == --store=* ]]; then
      asked+=("${word/#--store=\~/--store=$HOME}")
    elif [[ $word == --store ]] || [[ $word == -* && $word != *=* ]] &&
      __layerstore_value "$command" "$word" >/dev/null; then
      option=$word
    elif [[ $word == -* ]]; then
      :
    elif [[ ! $command ]]; then
      command=$word
    else
      ((count += 1))
    fi
  done
  if [[ ! $option && $current == --*=* ]]; then
    option=${current%%=*} head=${current%%=*}=
    current=${current#*=}
  fi
  if [[ $option == --store ]]; then
    kinds=files
  elif [[ $option ]]; then
    kinds=$(__layerstore_value "$command" "$option") || return
  elif [[ ! $command ]]; then
    kinds="${__layerstore_commands// /|}"
    [[ $current == -* ]] && kinds='--store|--version|--help'
  elif [[ $current == -* ]] && ! __layerstore_foreign "$command" "$count"; then
    kinds=$(__layerstore_options "$command")
    kinds="${kinds// /|}|--store"
  elif __layerstore_foreign "$command" "$count"; then
    kinds=files
  else
    kinds=$(__layerstore_operand "$command" "$count")
  fi
  [[ " $kinds " == *' files '* ]] && compopt -o filenames 2>/dev/null
  # What readline holds for the word begins behind the last of its own ends of words.
  local held=$head$current
  held=${held%"${held##*[=:]}"}
  [[ $COMP_WORDBREAKS == *[=:]* ]] || held=''
  COMPREPLY=()
  while IFS= read -r word; do
    [[ $word && $word == "$current"* ]] && word=$head$word && COMPREPLY+=("${word#"$held"}")
  done < <(__layerstore_candidates "$kinds" "$current")
}

# Whether the operand number $2 of the command $1 is of a command line of a container's.
__layerstore_foreign() {
  case $1 in
  @FOREIGN@) (($2 > 0)) ;;
  *) false ;;
  esac
}

complete -F _layerstore layerstore
"""


def _bash(known: Sequence[Command]) -> str:
    options: list[str] = []
    values: list[str] = []
    operands: list[str] = []
    for command in known:
        spellings = [word for option in command.options for word in option.spellings]
        options.append(f"  {command.name}) echo '{' '.join(spellings)}' ;;")
        operands.extend(_bash_operands(command))
        for option in command.options:
            if option.value:
                cases = "|".join(f"'{command.name} {word}'" for word in option.spellings)
                values.append(f"  {cases}) echo '{option.value}' ;;")
    return _filled(
        _BASH,
        COMMANDS=" ".join(command.name for command in known),
        OPTIONS="\n".join(options),
        VALUES="\n".join(values),
        OPERANDS="\n".join(operands),
        FOREIGN="|".join(command.name for command in known if command.ends_options),
    )


def _bash_operands(command: Command) -> Iterator[str]:
    words = [operand.value for operand in command.operands]
    if command.operands and command.operands[-1].repeats:
        words.append("...")
    if words:
        told = " ".join(f"'{word}'" for word in words)
        yield f"  {command.name}) printf '%s\\n' {told} ;;"


# -- zsh

_ZSH = r"""#compdef layerstore
# Completion of layerstore for zsh, written by 'layerstore completion zsh'.

# Words before -- are what _arguments says about the place, for compadd.
_layerstore_ask() {
  local end=$@[(i)--] store=${opt_args[--store]:-$store_before}
  local -a found asked=(layerstore)
  [[ -n $store ]] && asked+=(--store ${(Q)~store})
  found=(${(f)"$($asked $@[end+1,-1] 2>/dev/null)"})
  compadd "$@[1,end-1]" -- ${found:#*<none>*}
}
_layerstore_images() { _layerstore_ask "$@" -- images --format '{{.Repository}}:{{.Tag}}' }
_layerstore_containers() { _layerstore_ask "$@" -- ps --all --format '{{.Names}}' }
_layerstore_volumes() { _layerstore_ask "$@" -- volume ls --quiet }

_layerstore() {
  local curcontext=$curcontext state line store_before
  local -A opt_args
  local -a known=(
@COMMANDS@
  )
  _arguments -C '--store=[the store]:DIR:_files -/' '--version[print the version]' \
    '(-h --help)'{-h,--help}'[show what there is]' '1: :->command' '*:: :->arguments' && return
  case $state in
  command) _describe -t commands command known ;;
  arguments)
    curcontext="${curcontext%:*:*}:layerstore-$words[1]:"
    store_before=${opt_args[--store]}
    case $words[1] in
@ARGUMENTS@
    esac
    ;;
  esac
}

_layerstore "$@"
"""
_ZSH_ACTIONS = {
    IMAGES: "_layerstore_images",
    CONTAINERS: "_layerstore_containers",
    VOLUMES: "_layerstore_volumes",
    FILES: "_files",
    ANYTHING: "",
}


def _zsh(known: Sequence[Command]) -> str:
    lines = [f"    {_zsh_quoted(f'{one.name}:{one.summary}')}" for one in known]
    cases = [
        f"    {command.name})\n      _arguments -s \\\n        "
        + " \\\n        ".join(_zsh_specs(command))
        + "\n      ;;"
        for command in known
    ]
    return _filled(_ZSH, COMMANDS="\n".join(lines), ARGUMENTS="\n".join(cases))


def _zsh_specs(command: Command) -> Iterator[str]:
    for option in command.options:
        yield from _zsh_option(option)
    yield "'--store=[the store]:DIR:_files -/'"
    for number, operand in enumerate(command.operands, 1):
        place = "*" if operand.repeats else str(number)
        yield _zsh_quoted(f"{place}:{_zsh_told(operand.name)}:{_zsh_action(operand.value)}")
    if command.ends_options:
        yield "'*: :_files'"


def _zsh_option(option: Option) -> Iterator[str]:
    told = f"[{_zsh_told(option.summary)}]"
    value = f":value:{_zsh_action(option.value)}" if option.value else ""
    for word in option.spellings:
        equals = "=" if option.value and word.startswith("--") else ""
        yield _zsh_quoted(f"*{word}{equals}{told}{value}")


def _zsh_action(value: str) -> str:
    if value in _ZSH_ACTIONS:
        return _ZSH_ACTIONS[value]
    if " " in value:
        return f"{{{'; '.join(_ZSH_ACTIONS[kind] for kind in value.split())}}}"
    return f"({value.replace('|', ' ')})"


def _zsh_told(text: str) -> str:
    """Return a description as ``_arguments`` takes it."""
    for special in "\\[]:":
        text = text.replace(special, f"\\{special}")
    return " ".join(text.split())


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# -- fish

_FISH = r"""# Completion of layerstore for fish, written by 'layerstore completion fish'.

# The words before the cursor without --store and its directory.
function __layerstore_words
    set -l words (commandline -opc)[2..-1]
    while set -q words[1]
        switch $words[1]
            case --store
                set -e words[1]
            case '--store=*'
            case '*'
                echo -- $words[1]
        end
        set -e words[1]
    end
end

# What names the store on this command line.
function __layerstore_store
    set -l words (commandline -opc)
    for i in (seq (count $words))
        switch $words[$i]
            case --store
                test $i -lt (count $words); and printf '%s\n' --store $words[(math $i + 1)]
            case '--store=*'
                echo -- $words[$i]
        end
    end
end

function __layerstore_has_no_command
    not string match -qv -- '-*' (__layerstore_words)
end

function __layerstore_is
    test "$argv" = "$(string match -v -- '-*' (__layerstore_words))[1]"
end

function __layerstore_images
    layerstore (__layerstore_store) images --format '{{.Repository}}:{{.Tag}}' 2>/dev/null |
        string match -v '*<none>*'
end

function __layerstore_containers
    layerstore (__layerstore_store) ps --all --format '{{.Names}}' 2>/dev/null
end

function __layerstore_volumes
    layerstore (__layerstore_store) volume ls --quiet 2>/dev/null
end

complete -c layerstore -f
complete -c layerstore -l store -x -a '(__fish_complete_directories)' -d 'the store'
complete -c layerstore -n __layerstore_has_no_command -l version -d 'print the version'
complete -c layerstore -n __layerstore_has_no_command -s h -l help -d 'show what there is'
@LINES@
"""


def _fish(known: Sequence[Command]) -> str:
    return _filled(_FISH, LINES="\n".join(_fish_lines(known)))


def _fish_lines(known: Sequence[Command]) -> Iterator[str]:
    begin = "complete -c layerstore -n"
    for command in known:
        told = _fish_quoted(command.summary)
        yield f"{begin} __layerstore_has_no_command -a {command.name} -d {told}"
    for command in known:
        here = f"{begin} '__layerstore_is {command.name}'"
        for option in command.options:
            yield f"{here} {_fish_option(option)}"
        yield from (
            f"{here}{_fish_value(operand.value, '')}" for operand in _distinct(command.operands)
        )


def _distinct(operands: Sequence[Operand]) -> list[Operand]:
    """Return one of each kind: fish does not count operands."""
    told = [operand for operand in operands if operand.value != ANYTHING]
    return list({operand.value: operand for operand in told}.values())


def _fish_option(option: Option) -> str:
    words = []
    for word in option.spellings:
        kind = "-l" if word.startswith("--") else "-s"
        words.append(f"{kind} {word.lstrip('-')}")
    value = _fish_value(option.value, " -x") if option.value else ""
    return f"{' '.join(words)}{value} -d {_fish_quoted(option.summary)}"


def _fish_value(value: str, needed: str) -> str:
    """Return the options of ``complete`` for a value; ``needed`` says that there must be one."""
    if value == ANYTHING:
        return needed
    files = FILES in value.split()
    asked = [f"(__layerstore_{kind})" for kind in value.split() if kind in _ASKED]
    if not files and not asked:
        asked = value.split("|")
    listed = f" -a {_fish_quoted(' '.join(asked))}" if asked else ""
    return (" -r" if files and needed else needed) + (" -F" if files else "") + listed


def _fish_quoted(text: str) -> str:
    plain = " ".join(text.split()).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{plain}'"


def _filled(script: str, **parts: str) -> str:
    for name, text in parts.items():
        script = script.replace(f"@{name}@", text)
    return script
