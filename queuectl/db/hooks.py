"""Hooks: the commands of the settings ``on_completed`` and ``on_dead``, which are enqueued when a job ends so.

A hook is a job like any other, stored in the transaction that writes the end: either both are there or neither. Its id
is made of the ended run's, so that no end makes two.
"""

from __future__ import annotations

import os

from queuectl.db.rules import plain, to_json
from queuectl.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Optional, Sequence

    from queuectl.config import Config
    from queuectl.db.base import Ended

PREFIX = "hook-"
# So that it need not wait behind the other jobs of its queue.
PRIORITY = 1000
# Of a command and a reason, this many characters are passed on: environments have limits.
MOST = 1000
ENDED_ID = "QUEUECTL_ENDED_ID"


class Hook(NamedTuple):
    """A job to be stored when another has ended."""

    id: str
    queue: str
    command: str
    cwd: str
    env_json: str
    tags_json: str
    max_retries: int


class Hooks:
    """The hooks in force."""

    def __init__(self, config: Config) -> None:
        self._commands = {"completed": config.on_completed, "dead": config.on_dead}
        self._max_retries = config.max_retries

    def after(
        self, run_id: int, state: str, reason: Optional[str], job_id: str, queue: str, command: str, env: Optional[str]
    ) -> Optional[Hook]:
        """Return the hook for a job that has ended in *state*; None if there is none, or the job is a hook itself.

        *env* is the job's, as JSON.
        """
        its_command = self._commands.get(state)
        if its_command is None or (env and f'"{ENDED_ID}":' in env):
            return None
        facts = {
            ENDED_ID: job_id,
            "QUEUECTL_ENDED_STATE": state,
            "QUEUECTL_ENDED_REASON": plain((reason or "")[:MOST]),
            "QUEUECTL_ENDED_QUEUE": queue,
            "QUEUECTL_ENDED_COMMAND": plain(command[:MOST]),
        }
        return Hook(
            f"{PREFIX}{run_id}", queue, its_command, os.path.abspath(os.sep), to_json(facts) or "",
            to_json([f"on_{state}"]) or "", self._max_retries,
        )  # fmt: skip

    def after_ends(self, ended: Sequence[Ended]) -> Dict[int, Hook]:
        """Return the hooks for those of *ended* that have one, by their places."""
        found = {}
        for place, ((job, run_id, _), _, verdict) in enumerate(ended):
            hook = self.after(run_id, verdict.state.value, verdict.reason, job.id, job.queue, job.command, job.env_json)
            if hook is not None:
                found[place] = hook
        return found


def hooks_of(config: Config) -> Optional[Hooks]:
    """Return the hooks that *config* sets; None if it sets none."""
    return Hooks(config) if config.on_completed or config.on_dead else None
