"""``completion SHELL``, and the hidden ``__complete`` that the scripts ask what may follow.

The scripts are thin and the same for every release: the words of the line go to ``__complete``, which reads
the same tables as the parser and, for ids and queues, the store. It says nothing when something is wrong:
an error message in the middle of a command line helps nobody.
"""

from __future__ import annotations

from queuectl.cli_commands import TABLE, VALUED, commands_of
from queuectl.cli_commands.parser import is_option, locate, long_name
from queuectl.cli_commands.spec import GLOBAL_OPTIONS, Command, Positional
from queuectl.db.rules import CANCELLABLE, EDITABLE, RETRIABLE
from queuectl.errors import QueuectlError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, List, Optional, Sequence, Tuple

    from queuectl.cli_commands import Entry
    from queuectl.cli_commands.spec import Args, Option

    Offer = Tuple[str, str]  # a word, and what it is

SHELLS = ("bash", "zsh", "fish", "powershell")
MOST_OFFERED = 100
# Which jobs a completion offers, by the kind in the tables.
JOB_STATES: Dict[str, Tuple[str, ...]] = {
    "jobs": (),
    "dead": ("dead",),
    "active": CANCELLABLE,
    "waiting": EDITABLE,
    "retriable": RETRIABLE,
}

BASH = """\
# queuectl completion for bash. Load it: source <(queuectl completion bash)
_queuectl() {
    local line before=("${COMP_WORDS[@]:1:COMP_CWORD-1}") current=${COMP_WORDS[COMP_CWORD]}
    local program=${COMP_WORDS[0]}
    [[ $program == "~/"* ]] && program=$HOME/${program:2}
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("${line%%$'\\t'*}")
    done < <("$program" __complete -- "${before[@]}" "+$current" 2>/dev/null)
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    return 0
}
complete -o default -F _queuectl queuectl
"""

ZSH = """\
#compdef queuectl
# queuectl completion for zsh. Load it: source <(queuectl completion zsh)
_queuectl() {
    local line name current=${(Q)words[CURRENT]} program=${words[1]}
    [[ $program == "~/"* ]] && program=$HOME/${program:2}
    local -a before offers partial
    before=("${(@Q)words[2,CURRENT-1]}")
    for line in "${(@f)$("$program" __complete -- "${before[@]}" "+$current" 2>/dev/null)}"; do
        name=${line%%$'\\t'*}
        if [[ $name == *= ]]; then
            partial+=("$name")
        elif [[ $line == *$'\\t'* ]]; then
            offers+=("${name//:/\\\\:}:${line#*$'\\t'}")
        elif [[ -n $name ]]; then
            offers+=("${name//:/\\\\:}")
        fi
    done
    if (( ${#offers} || ${#partial} )); then
        (( ${#partial} )) && compadd -S '' -a partial
        (( ${#offers} )) && _describe -t queuectl queuectl offers
    else
        _files
    fi
}
# Either loaded by a line of .zshrc, or, as a file _queuectl in $fpath, by the first completion.
if [[ ${funcstack[1]} == _queuectl ]]; then
    _queuectl "$@"
else
    compdef _queuectl queuectl
fi
"""

FISH = """\
# queuectl completion for fish. Load it: queuectl completion fish | source
function __queuectl_complete
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    set -l program (string replace -r '^~/' "$HOME/" -- $before[1])
    set -l offers
    if type -q -- $program
        set offers ($program __complete -- $before[2..-1] "+$current" 2>/dev/null)
    end
    if set -q offers[1]
        printf '%s\\n' $offers
    else
        __fish_complete_path "$current"
    end
end
complete -c queuectl -f -a '(__queuectl_complete)'
"""

POWERSHELL = """\
# queuectl completion for PowerShell. Load it: queuectl completion powershell | Out-String | Invoke-Expression
Register-ArgumentCompleter -Native -CommandName queuectl, queuectl.exe -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $words = @($commandAst.CommandElements | Where-Object { $_.Extent.EndOffset -lt $cursorPosition } |
        Select-Object -Skip 1 | ForEach-Object { "$_" })
    $program = "$($commandAst.CommandElements[0])"
    & $program __complete -- @words "+$wordToComplete" 2>$null | ForEach-Object {
        $name, $about = $_ -split "`t", 2
        if (-not $about) { $about = $name }
        [System.Management.Automation.CompletionResult]::new($name, $name, 'ParameterValue', $about)
    }
}
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH, "powershell": POWERSHELL}


def print_script(args: Args) -> int:
    """``completion SHELL``."""
    script = SCRIPTS.get(args.shell.lower())
    if script is None:
        from queuectl.cli_commands.suggest import did_you_mean

        hint = did_you_mean(args.shell, SHELLS, "There is one for ")
        raise UsageError(f"no completion for {args.shell[:40]!r}. {hint}")
    print(script, end="")
    return 0


# -- what may follow --------------------------------------------------------------------------


def complete(args: Args) -> int:
    """``__complete -- WORD ... +CURRENT``: print what may stand in place of CURRENT, a word a line."""
    try:
        words: List[str] = list(args.line)
        current = words.pop()[1:] if words else ""
        for word, about in offers(words, current):
            print(f"{word}\t{about}" if about else word)
    except (QueuectlError, OSError):
        pass
    return 0


def offers(before: Sequence[str], current: str) -> List[Offer]:
    """Return the words that may stand where *current* does, after *before*."""
    *before, whole = _unsplit([*before, current])
    # Of a word that bash has split, it replaces the last part, or adds to it if that is a "=".
    known = len(whole) - (0 if _is_split_at(current) else len(current))
    return [(word[known:], about) for word, about in _whole_words(before, whole)]


def _unsplit(words: Sequence[str]) -> List[str]:
    """Put words together again that bash has split: at each "=" and ":", which become words of their own."""
    joined: List[str] = []
    is_open = False  # whether the last word ends where bash has split it
    for word in words:
        splits = _is_split_at(word) and bool(joined) and joined[-1] != "--"
        if splits or (is_open and word):
            joined[-1] += word
        else:
            joined.append(word)
        is_open = splits
    return joined


def _is_split_at(word: str) -> bool:
    return bool(word) and not word.strip("=:")


def _whole_words(before: List[str], current: str) -> List[Offer]:
    name, equals, value = current.partition("=")
    prefix = ""
    if equals and name.startswith("--") and long_name(name) in VALUED:
        before, current, prefix = [*before, name], value, name + "="
    return [(prefix + word, about) for word, about in _after(before, current)]


def _after(before: List[str], current: str) -> List[Offer]:
    found = locate(before)
    if not found:
        if _wants_value(before):
            return _of_option(before[-1], GLOBAL_OPTIONS, current, before)
        return _matching(_first_words(current), current)
    entry = TABLE.get(before[found[0]])
    if entry is None:
        return []
    if entry.subcommands and len(found) == 1:
        return _matching(_verbs(entry), current)
    command = commands_of(entry.name).get(" ".join(before[at] for at in found))
    if command is None:
        return []
    return _in_command(command, [word for at, word in enumerate(before) if at not in found], current)


def _wants_value(before: Sequence[str]) -> bool:
    return bool(before) and before[-1].startswith("--") and long_name(before[-1]) in VALUED and "=" not in before[-1]


def _first_words(current: str) -> List[Offer]:
    if current.startswith("-"):
        return [(name, option.help) for option in GLOBAL_OPTIONS for name in option.names]
    return [(entry.name, entry.summary) for entry in TABLE.values() if entry.group]


def _in_command(command: Command, rest: List[str], current: str) -> List[Offer]:
    if "--" in rest:
        return []
    options = (*command.options, *GLOBAL_OPTIONS)
    names = [(name, option.help) for option in options for name in option.names]
    if _wants_value(rest):
        return _of_option(rest[-1], options, current, rest)
    if is_option(current) or current == "-":
        return _matching(names, current)
    plain: List[str] = []
    skip = False
    for word in rest:
        if skip:
            skip = False
        elif is_option(word):
            skip = _wants_value([word])
        else:
            plain.append(word)
    for positional in command.positionals:
        if positional.complete == "commands":
            return _matching(_topics(plain), current)
        if positional.most is None or len(plain) < positional.most:
            return _of_kind(positional.complete, current, rest)
        plain = plain[positional.most :]
    return _matching(names, current)  # nothing else may follow


def _topics(before: Sequence[str]) -> List[Offer]:
    """Return what ``help`` may be asked about after the words *before*: a command, then a noun's verbs."""
    if not before:
        return _first_words("")
    entry = TABLE.get(before[0])
    return _verbs(entry) if entry is not None and len(before) == 1 else []


def _verbs(entry: Entry) -> List[Offer]:
    known = commands_of(entry.name) if entry.subcommands else {}
    return [(verb, known[f"{entry.name} {verb}"].summary) for verb in entry.subcommands]


def _of_option(name: str, options: Iterable[Option], current: str, words: Sequence[str]) -> List[Offer]:
    for option in options:
        if long_name(name) in option.names:
            return _of_kind(option.complete, current, words)
    return []


def _of_kind(kind: str, current: str, words: Sequence[str]) -> List[Offer]:
    """Return the offers of one kind of value; none for free text and for files, which the shell knows."""
    if kind in JOB_STATES:
        return _job_ids(JOB_STATES[kind], current, words)
    if kind == "queues":
        return _queue_names(current, words)
    if kind == "hosts":
        return _hosts(current, words)
    if kind == "fields" and "=" in current:
        name, _, value = current.partition("=")
        found = _queue_names(value, words) if name == "queue" else []
        return [(f"{name}={word}", about) for word, about in found]
    return _matching(_fixed(kind), current)


def _fixed(kind: str) -> List[Offer]:
    if kind in ("states", "ended"):
        from queuectl.job import ENDED, STATES

        return [(state, "") for state in (STATES if kind == "states" else ENDED)]
    if kind == "keys":
        from queuectl.config import SETTINGS

        return [(setting.key, setting.meaning) for setting in SETTINGS.values()]
    if kind == "sort":
        from queuectl.cli_commands.jobs import SORT_FIELDS

        return [(sign + field, "") for field in SORT_FIELDS for sign in ("", "-")]
    if kind == "fields":
        from queuectl.jobspec import FIELDS

        return [(field + "=", "") for field in FIELDS if field != "id"]
    if kind == "shells":
        return [(shell, "") for shell in SHELLS]
    return [("none", "no limit")] if kind == "none" else []


def _matching(found: Iterable[Offer], current: str) -> List[Offer]:
    return [offer for offer in found if offer[0].startswith(current)]


# -- from the store ---------------------------------------------------------------------------


def _location(words: Sequence[str]) -> Optional[str]:
    for at, word in enumerate(words):
        if word.startswith("--db="):
            return _plain(word[5:])
        if word == "--db" and at + 1 < len(words):
            return _plain(words[at + 1])
    return None


def _plain(word: str) -> str:
    """Return a path as the shell would hand it over: some hand over the words of a line as they were typed."""
    from os import path

    quote = word[:1] if word[:1] in ("'", '"') else ""
    if quote:
        word = word.strip(quote)
    elif path.sep == "/":
        word = path.expanduser(word.replace("\\ ", " "))
    return word if quote == "'" else path.expandvars(word)


def _job_ids(states: Tuple[str, ...], current: str, words: Sequence[str]) -> List[Offer]:
    """Return ids that begin with *current*, the newest first, with state and command."""
    from queuectl.job import JobFilter
    from queuectl.queue import Queue
    from queuectl.render import escape, shorten

    found: List[Offer] = []
    with Queue(_location(words), create=False) as queue:
        for job in queue.jobs(JobFilter(states), 10 * MOST_OFFERED, None, True):
            if job.id.startswith(current) and job.id not in words:
                found.append((job.id, f"{job.state}: {shorten(escape(job.command), 50)}"))
            if len(found) == MOST_OFFERED:
                break
    return found


def _queue_names(current: str, words: Sequence[str]) -> List[Offer]:
    from queuectl.queue import Queue

    with Queue(_location(words), create=False) as queue:
        return _matching([(info.name, "paused" if info.paused else "") for info in queue.queues()], current)


def _hosts(current: str, words: Sequence[str]) -> List[Offer]:
    from queuectl.queue import Queue

    counts: Dict[str, int] = {}
    with Queue(_location(words), create=False) as queue:
        for worker in queue.workers():
            counts[worker.host] = counts.get(worker.host, 0) + 1
    found = [(host, f"{count} {'worker' if count == 1 else 'workers'}") for host, count in sorted(counts.items())]
    return _matching(found, current)


COMMANDS = (
    Command(
        "completion",
        print_script,
        positionals=[Positional("shell", "SHELL", "bash, zsh, fish or powershell", complete="shells")],
        examples=[
            ("source <(queuectl completion bash)", "in ~/.bashrc"),
            ("source <(queuectl completion zsh)", "in ~/.zshrc, after compinit"),
            ("queuectl completion fish > ~/.config/fish/completions/queuectl.fish", ""),
            ("queuectl completion powershell | Out-String | Invoke-Expression", "in $PROFILE"),
        ],
        details="Completes commands, options, states, settings, queues, hosts and job ids.",
    ),
    Command(
        "__complete",
        complete,
        positionals=[Positional("line", "WORD", "the words of the line", 0, None)],
    ),
)
