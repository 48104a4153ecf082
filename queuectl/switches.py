"""The part of the Python API about queues and settings; ``Queue`` inherits it."""

from __future__ import annotations

from queuectl import jobspec
from queuectl.config import MAX_INT
from queuectl.errors import InvalidJob, QueuectlError, shown
from queuectl.forking import Forkable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Union

    from queuectl.config import Config
    from queuectl.db.depth import Depth
    from queuectl.job import QueueInfo


class Switches(Forkable):
    """Queues and settings of one store."""

    def queues(self) -> List[QueueInfo]:
        """Return all queues with their switches and counts."""
        with self._lock:
            return self.store.queues()

    def depths(self) -> List[Depth]:
        """Return what is to be done in each queue, and for how long a due job has waited there."""
        with self._lock:
            return self.store.depths()

    def pause(self, queue: str) -> None:
        """Let the jobs of *queue* wait; running ones go on."""
        with self._lock:
            self.store.set_paused(_queue_name(queue), True)

    def resume(self, queue: str) -> None:
        """Let the jobs of *queue* run again."""
        with self._lock:
            self.store.set_paused(_queue_name(queue), False)

    def limit(self, queue: str, max_running: Optional[int]) -> None:
        """Let at most *max_running* jobs of *queue* run at once, over all hosts; None: no limit."""
        if max_running is not None and (type(max_running) is not int or not 1 <= max_running <= MAX_INT):
            got = shown(max_running)
            raise QueuectlError(f"a queue's limit must be a whole number from 1 to {MAX_INT}, or none, not {got}.")
        with self._lock:
            self.store.set_limit(_queue_name(queue), max_running)

    def config(self) -> Config:
        """Return the settings in force."""
        from queuectl.config import Config

        with self._lock:
            return Config(self.store.settings())

    def settings(self) -> Dict[str, str]:
        """Return the settings that were set, as they were typed."""
        with self._lock:
            return self.store.settings()

    def set_setting(self, key: str, value: Union[str, float, None]) -> None:
        """Set a setting: to a text as one types it, a number, or None where a setting may be without a value.

        Raises:
            InvalidSetting: The key is unknown or the value is refused.
        """
        from queuectl import config

        text = config.check(key, value)
        with self._lock:
            self.store.set_setting(config.find(key).key, text)

    def unset_setting(self, key: str) -> None:
        """Put a setting back to its default."""
        from queuectl import config

        with self._lock:
            self.store.set_setting(config.find(key).key, None)


def _queue_name(name: Any) -> str:
    if not isinstance(name, str) or not jobspec.is_name(name):
        raise InvalidJob(f"a queue's name must be {jobspec.NAME_RULE}, not {shown(name)}.")
    return jobspec.plain(name)
