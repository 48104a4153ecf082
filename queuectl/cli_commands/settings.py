"""``config set``, ``config get``, ``config list`` and ``config unset``."""

from __future__ import annotations

from queuectl import config
from queuectl.cli_commands.spec import Command, Positional
from queuectl.queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Mapping

    from queuectl.cli_commands.spec import Args

HEADERS = ("SETTING", "VALUE", "DEFAULT", "MEANING")


def set_one(args: Args) -> int:
    """``config set K V``."""
    config.check(args.key, args.value)  # before a store is made for it
    with Queue(args.db) as queue:
        queue.set_setting(args.key, args.value)
        if not args.quiet:
            _tell_unit(args.key, args.value)
        return _told(queue, args)


def _tell_unit(key: str, value: str) -> None:
    """Say of a number without a unit how soon the workers will delete jobs: somebody may have meant days."""
    from queuectl.clock import format_duration, parse_duration
    from queuectl.render import note

    setting = config.find(key)
    if setting.key.startswith("keep_") and value.strip()[-1:].isdigit():
        note(
            f"{setting.key} is {format_duration(parse_duration(value))}, as a number without a unit is seconds: "
            f"{setting.meaning}. Days are written 7d."
        )


def unset_one(args: Args) -> int:
    """``config unset K``."""
    with Queue(args.db, create=args.may_make_store) as queue:
        queue.unset_setting(args.key)
        return _told(queue, args)


def _told(queue: Queue, args: Args) -> int:
    if args.json:
        from queuectl.render import write_json

        write_json(setting_json(config.find(args.key), queue.settings()))
    elif not args.quiet:
        print("OK")
    return 0


def get_one(args: Args) -> int:
    """``config get K``."""
    from queuectl.render import note, write_json

    setting = config.find(args.key)
    with Queue(args.db, create=args.may_make_store) as queue:
        stored = queue.settings()
    if args.json:
        write_json(setting_json(setting, stored))
        return 0
    if args.verbose and not args.quiet:
        how = "was set" if setting.key in stored else "has its default"
        note(f"{setting.key} {how}. Its meaning: {setting.meaning}.")
    print(_in_force(setting, stored))
    return 0


def _in_force(setting: config.Setting, stored: Mapping[str, str]) -> str:
    """Return the text of a setting's value, for people: as it was set, its default, or ``none``."""
    from queuectl.render import escape

    return escape(stored.get(setting.key) or setting.default or "none")


def setting_json(setting: config.Setting, stored: Mapping[str, str]) -> Dict[str, Any]:
    """Return a setting as an object for ``--json``; values are text, as they were typed."""
    return {
        "key": setting.key,
        "value": stored.get(setting.key, setting.default),
        "default": setting.default,
        "set": setting.key in stored,
        "meaning": setting.meaning,
    }


def list_all(args: Args) -> int:
    """``config list``: a table for people, wherever it goes; one array with ``--json``."""
    from queuectl.render import write_json_array, write_table

    with Queue(args.db, create=args.may_make_store) as queue:
        stored = queue.settings()
    if args.json:
        write_json_array(setting_json(setting, stored) for setting in config.SETTINGS.values())
        return 0
    if args.quiet:
        for setting in config.SETTINGS.values():
            print(f"{setting.key}={_in_force(setting, stored)}")
        return 0
    rows = [
        (setting.key, _in_force(setting, stored), setting.default or "none", setting.meaning)
        for setting in config.SETTINGS.values()
    ]
    write_table(HEADERS, rows, spare=("DEFAULT",), wrap=True)
    return 0


KEY = Positional("key", "K", "the setting's name, with underscores or hyphens", complete="keys")

COMMANDS = (
    Command(
        "config set",
        set_one,
        "Change a setting",
        positionals=[KEY, Positional("value", "V", "the value, or none where the setting allows it")],
        examples=[("queuectl config set max_retries 5", ""), ("queuectl config set keep_completed 7d", "")],
        details="Settings live in the store: all its workers share them, and notice changes without a restart.",
        exit_codes=[(1, "unknown setting or invalid value; nothing was changed")],
    ),
    Command(
        "config get",
        get_one,
        "Print a setting's value",
        positionals=[KEY],
        examples=[("queuectl config get backoff_base", "")],
        details="Prints the value as it was set, or the default; none if there is neither.",
    ),
    Command(
        "config list",
        list_all,
        "List all settings with defaults and meanings",
        examples=[("queuectl config list", "")],
    ),
    Command(
        "config unset",
        unset_one,
        "Reset a setting to its default",
        positionals=[KEY],
        examples=[("queuectl config unset timeout", "")],
    ),
)
