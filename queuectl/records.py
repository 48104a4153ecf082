"""Named tuples, declared as with ``typing.NamedTuple`` but without importing ``typing``.

Importing ``typing``, which pulls in regular expressions and more, takes a fifth of the start of a short command or a
worker. Types are checked as usual: a type checker sees ``typing.NamedTuple`` itself.
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, NamedTuple, Tuple
else:

    class _Maker(type):
        """Makes a class body with annotations into a named tuple with the body's methods."""

        def __new__(cls, name: str, bases: Tuple[type, ...], body: Dict[str, Any]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = list(body["__annotations__"])
            defaults = [body.pop(field) for field in fields if field in body]
            made = namedtuple(name, fields, defaults=defaults, module=body.pop("__module__"))
            for key, value in body.items():
                setattr(made, key, value)
            return made

    class NamedTuple(metaclass=_Maker):
        """The base class to name in a declaration; the class that results is a plain named tuple."""


__all__ = ["NamedTuple"]
