"""Named tuples without ``typing`` are those that ``typing`` would have made."""

from __future__ import annotations

import pickle
import sys
import typing

import pytest

from queuectl import records
from queuectl.job import Job, QueueInfo, Run, Status, Worker


class Ours(records.NamedTuple):
    """A record."""

    name: str
    count: int = 3

    @property
    def shown(self) -> str:
        """Both fields."""
        return f"{self.name} {self.count}"


class Theirs(typing.NamedTuple):
    """A record."""

    name: str
    count: int = 3

    @property
    def shown(self) -> str:
        """Both fields."""
        return f"{self.name} {self.count}"


def test_a_record_is_the_named_tuple_that_it_looks_like() -> None:
    """Fields, defaults, methods, text, place: nothing tells it from the usual one but its name."""
    for name in ("_fields", "_field_defaults", "__doc__", "__module__", "__bases__"):
        assert getattr(Theirs, name) == getattr(Ours, name)
    assert list(Theirs.__annotations__) == list(Ours.__annotations__)
    assert (("a", 3), "a 3", "a 4") == (Ours("a"), Ours("a").shown, Ours("a")._replace(count=4).shown)
    assert Ours("a") == pickle.loads(pickle.dumps(Ours("a")))
    assert "Ours(name='a', count=3)" == repr(Ours("a"))


def test_a_field_that_is_missing_is_refused() -> None:
    """As by every call."""
    with pytest.raises(TypeError, match="name"):
        Ours()  # type: ignore[call-arg]


@pytest.mark.skipif(sys.version_info < (3, 10), reason="there, typing cannot read str | None")
@pytest.mark.parametrize("kind", [Job, Run, Worker, QueueInfo, Status])
def test_what_the_queue_returns_tells_its_types_to_programs(kind: type) -> None:
    """Pydantic and FastAPI read them from the names, which type checkers' imports are not there for."""
    assert list(kind.__annotations__) == list(typing.get_type_hints(kind))
