"""Write the generated pages of ``docs/reference``: ``python3 tools/reference.py [--check]``.

``cli.md`` comes from the tables that the parser and the help read, ``settings.md`` from the table that checks
a setting, so neither can say something else than the program does. With ``--check`` nothing is written, and the
exit code says whether the pages are up to date.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from queuectl import config  # noqa: E402
from queuectl.cli_commands import TABLE, commands_of  # noqa: E402
from queuectl.cli_commands.help import EXIT_CODES, option_label  # noqa: E402
from queuectl.cli_commands.parser import usage  # noqa: E402
from queuectl.cli_commands.spec import GLOBAL_OPTIONS, Command, Option  # noqa: E402

FOLDER = ROOT / "docs" / "reference"
MADE_BY = "<!-- Made by tools/reference.py from the program's own tables; 'make docs' makes it anew. -->\n"

CLI_HEAD = """\
`queuectl [OPTIONS] COMMAND ...`, or `python3 -m queuectl` where the script is not on the path. `queuectl` alone
shows the status or, as long as there are no jobs, the commands to get started with."""
OPTION_RULES = """\
A long option is written `--name value` or `--name=value`; hyphens and underscores in names are the same; options cannot
be abbreviated. After `--` nothing is an option."""
SETTINGS_HEAD = """\
Settings live in the store, so all workers of a store share them, whatever host they run on.
`queuectl config set KEY VALUE` checks and sets one, `config get KEY` prints it, `config list` shows all,
`config unset KEY` returns to the default. Hyphens and underscores in a key are the same."""
SETTINGS_TAIL = """\
A change needs no restart: workers notice it with the next job they claim."""


def cell(text: str) -> str:
    """Return *text* for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def code(text: str) -> str:
    """Return *text* as code for a cell of a Markdown table."""
    return f"`{cell(text)}`"


def table(headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [
        "| " + " | ".join(headers) + " |",
        "|" + "---|" * len(headers),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def paragraphs(text: str) -> list[str]:
    """Return the lines of a text that is wrapped by hand; what is indented stays as it is."""
    lines = []
    for paragraph in text.strip("\n").split("\n\n"):
        if any(line.startswith("  ") for line in paragraph.split("\n")):
            lines += ["```text", *paragraph.split("\n"), "```", ""]
        else:
            lines += [" ".join(paragraph.split("\n")), ""]
    return lines


def option_rows(options: list[Option] | tuple[Option, ...]) -> list[tuple[str, ...]]:
    """Return a table's rows for *options*."""
    return [
        (code(option_label(option)), cell(option.help) + ("; may be repeated" if option.repeat else ""))
        for option in options
    ]


def command_lines(command: Command) -> list[str]:
    """Return the section of one command."""
    lines = [f"### {command.name}", "", command.summary + ".", "", "```text", usage(command), "```", ""]
    if command.details:
        lines += paragraphs(command.details)
    if command.positionals:
        lines += table(("argument", "meaning"), [(code(p.metavar), cell(p.help)) for p in command.positionals])
    if command.options:
        lines += table(("option", "meaning"), option_rows(list(command.options)))
    if command.examples:
        lines += ["```console"]
        for example, meaning in command.examples:
            lines += [f"$ {example}" + (f"    # {meaning}" if meaning else "")]
        lines += ["```", ""]
    if command.exit_codes:
        rows = [(str(number), cell(meaning)) for number, meaning in command.exit_codes]
        lines += ["Exit codes beyond the [general ones](exit-codes.md):", "", *table(("code", "meaning"), rows)]
    return lines


def cli_page() -> str:
    """Return ``cli.md``."""
    lines = [
        MADE_BY,
        "# Command line",
        "",
        CLI_HEAD,
        "",
    ]
    groups: dict[str, list[str]] = {}
    for word, entry in TABLE.items():
        if entry.group:
            groups.setdefault(entry.group, []).extend(commands_of(word))
    for group, names in groups.items():
        links = ", ".join(f"[{name}](#{name.replace(' ', '-')})" for name in names)
        lines += [f"- {group}: {links}"]
    lines += ["", "## Global options", "", "They may stand before or after the command's words.", ""]
    lines += table(("option", "meaning"), option_rows(GLOBAL_OPTIONS))
    lines += [
        OPTION_RULES,
        "",
        "## Exit codes",
        "",
        *table(("code", "meaning"), [(str(number), cell(meaning)) for number, meaning in EXIT_CODES]),
        "[Exit codes](exit-codes.md) says which errors end with which.",
        "",
    ]
    for group, names in groups.items():
        lines += [f"## {group}", ""]
        for name in names:
            lines += command_lines(commands_of(name.split(" ")[0])[name])
    return "\n".join(lines).rstrip("\n") + "\n"


def settings_page() -> str:
    """Return ``settings.md``."""
    aliases: dict[str, list[str]] = {}
    for alias, key in config.ALIASES.items():
        aliases.setdefault(key, []).append(alias)
    rows = []
    for key, setting in config.SETTINGS.items():
        names = " ".join(f"(also {code(alias)})" for alias in aliases.get(key, ()))
        default = "none" if setting.default is None else code(setting.default)
        rows.append((f"{code(key)} {names}".rstrip(), default, cell(setting.kind), cell(setting.meaning)))
    lines = [
        MADE_BY,
        "# Settings",
        "",
        SETTINGS_HEAD,
        "",
        *table(("key", "default", "value", "meaning"), rows),
        SETTINGS_TAIL,
        "",
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


PAGES = {"cli.md": cli_page, "settings.md": settings_page}


def main() -> int:
    """Write the pages, or with ``--check`` say which are out of date."""
    stale = []
    for name, page in PAGES.items():
        path = FOLDER / name
        text = page()
        if "--check" not in sys.argv[1:]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        print(f"out of date: {', '.join(stale)}. 'make docs' makes them anew.")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
