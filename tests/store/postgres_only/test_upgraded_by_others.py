"""An older store that somebody else than its owner opens first: what is new belongs to the owner all the same."""

from __future__ import annotations

import pytest

from queuectl.db import postgres_schema
from queuectl.db.migrate import migrations
from queuectl.errors import StoreRefused
from tests.store.build import T0, spec

NEWEST = postgres_schema.NEWEST

NOT_THE_OWNERS = """
    SELECT p.proname, pg_get_userbyid(p.proowner)
      FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
     WHERE n.nspname = %s AND pg_get_userbyid(p.proowner) <> %s
    """


@pytest.fixture
def owner(url, schema, raw):
    """A role that owns an empty schema, and a member of it."""
    name = f"owner_{schema}"
    raw(f'CREATE ROLE "{name}" LOGIN; CREATE ROLE "member_{schema}" LOGIN IN ROLE "{name}"')
    raw(f'CREATE SCHEMA {{s}} AUTHORIZATION "{name}"')
    yield name
    raw(f'DROP SCHEMA {{s}} CASCADE; DROP OWNED BY "{name}"; DROP ROLE "{name}"; DROP ROLE "member_{schema}"')


@pytest.fixture
def release(monkeypatch):
    """Make this the release whose newest migration has a number."""

    def make(newest):
        steps = [step for step in migrations("postgres") if step.number <= newest]
        monkeypatch.setattr(postgres_schema, "migrations", lambda _: steps)
        monkeypatch.setattr(postgres_schema, "NEWEST", newest)

    return make


@pytest.fixture
def open_as(server, schema, open_one):
    """Open the store as a role."""
    return lambda user: open_one(server.url(schema, user=user))


@pytest.mark.parametrize("other", ["postgres", "member_{s}"])
def test_who_comes_first_upgrades_it_in_the_owners_name(schema, raw, owner, release, open_as, other):
    """A superuser, or a member of the role; so the owner may do the next upgrade."""
    release(2)
    open_as(owner)
    release(5)
    open_as(other.format(s=schema))
    assert [] == raw(NOT_THE_OWNERS, schema, owner)
    release(NEWEST)

    store = open_as(owner)

    assert ["job1"] == store.add([spec()], T0)
    assert [] == store.check()


def test_what_a_superuser_made_in_its_own_name_becomes_the_owners(schema, raw, owner, release, open_as):
    """The owner is told what it may not change; the superuser's next upgrade sets that right."""
    release(5)
    open_as(owner)
    raw("ALTER FUNCTION {s}._has_room(text, integer, text, bigint, bigint) OWNER TO postgres")
    release(NEWEST)
    with pytest.raises(StoreRefused, match=r"may not upgrade it \(must be owner of function _has_room\)\. Call one"):
        open_as(owner)

    open_as("postgres")

    assert [] == raw(NOT_THE_OWNERS, schema, owner)
    assert [] == open_as(owner).check()


def test_an_owner_who_may_make_nothing_in_the_schema_is_not_in_the_way(schema, raw, release, open_as, owner):
    """A superuser upgrades such a store as ever."""
    raw("ALTER SCHEMA {s} OWNER TO postgres")
    release(2)
    open_as("postgres")
    raw(f'ALTER TABLE {{s}}.schema_version OWNER TO "{owner}"')
    release(NEWEST)

    assert [] == open_as("postgres").check()
