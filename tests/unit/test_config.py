"""Settings: every one has a default that is valid, and bad values are refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl import config
from queuectl.config import Config
from queuectl.errors import InvalidSetting

GOOD = [
    ("max_retries", "0", 0),
    ("max_retries", " 7 ", 7),
    ("max_retries", "2147483647", 2147483647),
    ("backoff_base", "1", 1.0),
    ("backoff_base", "1.5", 1.5),
    ("backoff_max", "1h", 3600.0),
    ("backoff_max", "0", 0.0),
    ("backoff_jitter", "0.5", 0.5),
    ("backoff_jitter", "1", 1.0),
    ("backoff_jitter", " 10% ", 0.1),
    ("backoff_jitter", "100 %", 1.0),
    ("timeout", "90", 90.0),
    ("timeout", "none", None),
    ("timeout", "None", None),
    ("kill_grace", "0", 0.0),
    ("output_limit", "65536", 65536),
    ("output_limit", "64k", 65536),
    ("output_limit", "1 MiB", 1048576),
    ("output_limit", "2", 2),
    ("output_limit", "1g", 1073741824),
    ("max_lost", "1", 1),
    ("lease", "2", 2.0),
    ("lease", "1m", 60.0),
    ("keep_completed", "7d", 604800.0),
    ("keep_completed", "none", None),
    ("keep_dead", "1w", 604800.0),
    ("on_completed", "None", None),
    ("on_dead", " mail -s 'a job has died' me", "mail -s 'a job has died' me"),
    ("on_dead", "x" * 131071, "x" * 131071),
]

BAD = [
    ("max_retries", "-1"),
    ("max_retries", "1.5"),
    ("max_retries", "2147483648"),
    ("max_retries", "9" * 5000),
    ("max_retries", "+1"),
    ("max_retries", "1_0"),
    ("max_retries", "٣"),
    ("max_retries", "none"),
    ("max_retries", ""),
    ("backoff_base", "0.99"),
    ("backoff_base", "inf"),
    ("backoff_base", "nan"),
    ("backoff_base", "1e999"),
    ("backoff_base", "1_0"),
    ("backoff_base", "٣"),
    ("backoff_base", "two"),
    ("backoff_max", "-1"),
    ("backoff_max", "none"),
    ("backoff_jitter", "soon"),
    ("backoff_jitter", "5s"),
    ("backoff_jitter", "5"),
    ("backoff_jitter", "101%"),
    ("backoff_jitter", "-0.1"),
    ("backoff_jitter", "nan"),
    ("backoff_jitter", "%"),
    ("backoff_jitter", "0_1"),
    ("timeout", "0"),
    ("timeout", "-5"),
    ("kill_grace", "five"),
    ("output_limit", "1"),
    ("output_limit", "0"),
    ("output_limit", "1.5 MiB"),
    ("output_limit", "2g"),
    ("output_limit", "MiB"),
    ("output_limit", "64\u212a"),  # the Kelvin sign, whose lower case is k
    ("max_lost", "0"),
    ("lease", "1.9"),
    ("lease", "0"),
    ("keep_completed", "0"),
    ("keep_dead", "for ever"),
    ("keep_dead", "\ud800"),
    ("keep_dead", "5\0"),
    ("on_completed", " "),
    ("on_dead", "\udcff"),
    ("on_dead", "echo \0"),
    ("on_dead", "\u00e4" * 65536),
]


@pytest.mark.parametrize(("key", "text", "expected"), GOOD)
def test_a_good_value_is_kept_as_typed_and_means_its_number(key, text, expected):
    """What is stored is the text, without outer blanks; read back it is a number in base units."""
    stored = config.check(key, text)

    assert text.strip() == stored
    assert expected == getattr(Config({key: stored}), key)


@pytest.mark.parametrize(("key", "text"), BAD)
def test_a_bad_value_is_refused_by_name(key, text):
    """The message names the setting and what it wants, and is short whatever was typed."""
    with pytest.raises(InvalidSetting, match=f"^{key} must be .*, not ") as refused:
        config.check(key, text)

    assert len(str(refused.value)) < 200


def test_without_anything_stored_the_defaults_of_the_contract_hold():
    """The defaults are those that the documentation promises."""
    actual = vars(Config({}))

    assert {
        "max_retries": 3,
        "backoff_base": 2.0,
        "backoff_max": 3600.0,
        "backoff_jitter": 0.0,
        "timeout": None,
        "kill_grace": 5.0,
        "output_limit": 1048576,
        "max_lost": 3,
        "lease": 30.0,
        "keep_completed": None,
        "keep_dead": None,
        "on_completed": None,
        "on_dead": None,
    } == actual


@pytest.mark.parametrize("key", sorted(config.SETTINGS))
def test_every_setting_explains_itself(key):
    """Each setting has a meaning and a kind, and its default passes its own check."""
    setting = config.find(key)

    assert setting.meaning
    assert setting.kind
    assert key == setting.key
    assert setting.default is None or setting.default == config.check(key, setting.default)


@pytest.mark.parametrize(
    "key", ["max_retries", "max-retries", "MAX-RETRIES", " max_retries ", "default_max_retries", "default-max-retries"]
)
def test_a_setting_is_known_by_all_its_names(key):
    """Hyphens, capitals and the alias name the same setting."""
    assert "max_retries" == config.find(key).key


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("max_retrys", "Did you mean max_retries?"),
        ("backof-base", "Did you mean backoff_base?"),
        ("colour", "'queuectl config list' shows them all."),
        ("", "'queuectl config list' shows them all."),
    ],
)
def test_an_unknown_setting_gets_a_hint(key, hint):
    """The nearest name is suggested, or where to find all of them."""
    with pytest.raises(InvalidSetting) as refused:
        config.find(key)

    assert f"unknown setting {key!r}. {hint}" == str(refused.value)


@given(
    st.sampled_from(sorted(config.SETTINGS)),
    st.one_of(st.text(max_size=20), st.text("0123456789.kKmMinoe ", max_size=9)),
)
def test_any_text_is_a_value_that_reads_back_or_is_refused(key, text):
    """No text makes the check fail in another way, and what it accepts can be read again."""
    try:
        stored = config.check(key, text)
    except InvalidSetting:
        stored = config.SETTINGS[key].default

    settings = Config({} if stored is None else {key: stored})

    assert config.SETTINGS[key].default is None or getattr(settings, key) is not None
