"""Durations and instants: what text means, and how numbers are shown."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl import clock

END_OF_2199 = 7258118399


@pytest.fixture
def zone(monkeypatch):
    """Let a test choose the local time zone; it is put back afterwards."""
    if not hasattr(time, "tzset"):
        pytest.skip("the platform has no time.tzset, so the local zone cannot be chosen")

    def choose(name):
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield choose
    monkeypatch.undo()
    time.tzset()


# -- durations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [
        ("0", 0.0),
        ("90", 90.0),
        ("2.5", 2.5),
        (".5", 0.5),
        ("007", 7.0),
        ("500ms", 0.5),
        ("90s", 90.0),
        ("1.5h", 5400.0),
        ("2h30m", 9000.0),
        ("2h 30m", 9000.0),
        ("1d", 86400.0),
        ("1w2d", 777600.0),
        ("1m500ms", 60.5),
        ("  5M ", 300.0),
        ("0s", 0.0),
        ("5min", 300.0),
        ("2 h 30 min", 9000.0),
    ],
)
def test_a_duration_is_the_sum_of_its_parts(text, expected_s):
    """Plain numbers are seconds; units may be mixed, spaced and written in capitals."""
    actual_s = clock.parse_duration(text)

    assert expected_s == pytest.approx(actual_s)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ".", "-1", "-1s", "+5", "nan", "inf", "infinity", "1e3", "1_000", "0x10", "1..5", "1.2.3",
        "s", "h2", "2h30", "5 minutes", "2 30m", "2 h 30", "h 2", "1y", "1h-5m", "five", "1,5h", "٣", "³", "5\0",
        "1h\x001m",
        "\ud800", "9" * 5000, "9" * 5000 + "w", "5229w",
    ],
)  # fmt: skip
def test_what_is_no_duration_is_refused(text):
    """Signs, exponents, unknown units, other digits than 0-9 and more than 100 years are refused."""
    with pytest.raises(ValueError, match="not a duration"):
        clock.parse_duration(text)


def test_a_hundred_years_is_the_longest_duration():
    """The bound itself is allowed, the next second is not."""
    longest = str(int(clock.LONGEST_S))

    assert clock.LONGEST_S == clock.parse_duration(longest)
    with pytest.raises(ValueError, match="100 years"):
        clock.parse_duration(str(int(clock.LONGEST_S) + 1))


@given(
    weeks=st.integers(0, 50),
    days=st.integers(0, 50),
    hours=st.integers(0, 100),
    minutes=st.integers(0, 100),
    seconds=st.integers(0, 100),
    millis=st.integers(0, 2000),
    glue=st.sampled_from(["", " "]),
)
def test_a_duration_written_in_units_reads_back(weeks, days, hours, minutes, seconds, millis, glue):
    """Whatever mixture of units a duration is written in, it means their sum."""
    amounts = (weeks, "w"), (days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s"), (millis, "ms")
    expected = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=millis)

    actual_s = clock.parse_duration(glue.join(f"{amount}{unit}" for amount, unit in amounts))

    assert expected.total_seconds() == pytest.approx(actual_s)


@given(st.integers(0, int(clock.LONGEST_S)))
def test_whole_seconds_read_back_exactly(seconds):
    """A number of seconds comes back as it was typed."""
    actual_s = clock.parse_duration(str(seconds))

    assert seconds == actual_s


@given(st.one_of(st.text(max_size=30), st.text("0123456789.smhdw -+e_", max_size=12)))
def test_any_text_is_a_duration_in_range_or_a_value_error(text):
    """No text makes the parser fail in another way, or return a number out of range."""
    try:
        actual_s = clock.parse_duration(text)
    except ValueError:
        actual_s = 0.0

    assert 0 <= actual_s <= clock.LONGEST_S


@pytest.mark.parametrize(
    ("duration_s", "expected"),
    [
        (0, "0 s"),
        (0.00001, "0 s"),
        (0.001, "1 ms"),
        (0.0123, "12.3 ms"),
        (0.0499, "49.9 ms"),
        (0.05, "0.1 s"),
        (0.3, "0.3 s"),
        (2.0, "2 s"),
        (9.96, "10 s"),
        (12, "12 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (3605, "1 h"),
        (12000, "3 h 20 min"),
        (86399.9, "1 d"),
        (187200, "2 d 4 h"),
        (-0.3, "-0.3 s"),
        (-125, "-2 min 5 s"),
    ],
)
def test_a_duration_is_shown_in_its_two_largest_units(duration_s, expected):
    """People get at most two units, and a unit of zero is left out."""
    actual = clock.format_duration(duration_s)

    assert expected == actual


@given(st.floats(0, clock.LONGEST_S))
def test_a_shown_duration_is_near_the_real_one(duration_s):
    """Read back, the text for people is off by less than one of its smallest unit."""
    sizes = {"d": 86400, "h": 3600, "min": 60, "s": 1, "ms": 0.001}
    words = clock.format_duration(duration_s).split()
    pairs = list(zip(words[::2], words[1::2]))

    shown_s = sum(float(amount) * sizes[unit] for amount, unit in pairs)

    # Two neighbouring units at most, so the error is under the unit below the largest.
    largest = sizes[pairs[0][1]]
    slack_s = {86400: 3600, 3600: 60, 60: 1, 1: 1, 0.001: 0.0001}[largest]
    assert abs(shown_s - duration_s) <= slack_s
    assert shown_s == pytest.approx(clock.parse_duration(clock.format_duration(duration_s)))


# -- instants ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected_at"),
    [
        ("2030-01-31T08:00:00Z", 1896076800.0),
        ("2030-01-31T08:00Z", 1896076800.0),
        ("2030-01-31 08:00:00z", 1896076800.0),
        ("2030-01-31T08:00:00+00:00", 1896076800.0),
        ("2030-01-31T09:30:00+01:30", 1896076800.0),
        ("2030-01-31T03:00:00-05:00", 1896076800.0),
        ("2030-01-31t09:30+0130", 1896076800.0),
        ("2030-01-31T09:00+01", 1896076800.0),
        ("20300131T080000Z", 1896076800.0),
        ("20300131t0800z", 1896076800.0),
        ("20300131T093000+0130", 1896076800.0),
        ("20300131T030000-05", 1896076800.0),
        ("20300131T080000.25Z", 1896076800.25),
        ("2030-01-31T08:00:00,250000000+00:00", 1896076800.25),
        ("2030-01-31T08:00:00.250Z", 1896076800.25),
        ("2030-01-31T08:00:00.5Z", 1896076800.5),
        ("2030-01-31T08:00:00.1234567Z", 1896076800.123456),
        ("  2030-01-31T08:00:00Z\n", 1896076800.0),
        ("1970-01-01T00:00:00Z", 0.0),
        ("2199-12-31T23:59:59Z", END_OF_2199),
    ],
)
def test_a_time_with_a_zone_is_read_exactly(text, expected_at):
    """Z and offsets are read, with any number of digits of a second's fraction."""
    actual_at = clock.parse_time(text)

    assert expected_at == actual_at


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "tomorrow", "08:00", "2030", "2030-13-01T00:00Z", "2030-02-30T00:00Z", "2030-01-31T25:00Z",
        "1969-12-31T23:59:59Z", "2200-01-01T00:00:00Z", "0001-01-01T00:00:00", "9999-12-31T23:59:59",
        "2030-01-31T08:00:00ZZ", "2030-01-31T08:00:00+99:00", "2030-01-31T08:00:00\0", "\ud800", "1896076800",
        "2030-01-31T08:00:00.", "2030-01-31T08:00.5", "2030-W05-4",
        "20301301T000000Z", "20300131T08", "20300131T08000", "20300131T", "20300131T0800.5Z", "20300131Z",
        "203001310800",
        "20300131 0800", "2030013", "20300131T08:00", "2030-01-31T0800", "2030-01-31T08:00:00,", "2030,1.31",
        "٢٠٣٠٠١٣١T0800", "20300131T٠٨٠٠", "2030-01-31T",
        "2030-01-3108:00", "2030-01-31Z", "2030-01-31T08", "2030-01-31\x0008:00:00", "2030-01-31\ud80008:00",
        "٢٠٣٠-01-31T08:00", "x" * 10000,
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused(text):
    """Words, bare times, impossible dates and years outside 1970 to 2200 are refused."""
    with pytest.raises(ValueError, match="not a time"):
        clock.parse_time(text)


@given(st.one_of(st.text(max_size=40), st.text("0123456789-:T.Z+ ", max_size=32)))
def test_any_text_is_a_time_in_range_or_a_value_error(text):
    """No text makes the parser fail in another way, or return an instant out of range."""
    try:
        actual_at = clock.parse_time(text)
    except ValueError:
        actual_at = 0.0

    assert 0 <= actual_at <= END_OF_2199 + 1


@pytest.mark.parametrize("name", ["UTC", "America/New_York", "Asia/Kolkata", "Pacific/Auckland"])
def test_a_time_without_a_zone_is_local(zone, name):
    """A naive time means the local zone's, as the calendar of that zone has it."""
    zone(name)

    actual_at = clock.parse_time("2030-07-01T08:00:00")

    assert (2030, 7, 1, 8, 0, 0) == time.localtime(actual_at)[:6]
    assert actual_at == clock.parse_time("20300701T0800")
    assert (2030, 7, 1, 0, 0, 0) == time.localtime(clock.parse_time("20300701"))[:6]


def test_offsets_hold_whatever_the_local_zone(zone):
    """A time with an offset means the same instant everywhere."""
    zone("Asia/Kolkata")

    assert 1896076800.0 == clock.parse_time("2030-01-31T03:00:00-05:00")


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2199, 12, 30)),
    st.integers(-14 * 60, 14 * 60),
)
def test_a_time_in_any_zone_reads_back(moment, offset_min):
    """What datetime writes with an offset means the same instant."""
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=offset_min)))

    actual_at = clock.parse_time(aware.isoformat())

    assert aware.timestamp() == actual_at


@given(st.floats(0, END_OF_2199))
def test_an_instant_shown_in_utc_reads_back_to_the_millisecond(instant_at):
    """ISO text in UTC is within a millisecond of the instant, and has one fixed length."""
    text = clock.iso_utc(instant_at)

    assert 24 == len(text)
    assert text.endswith("Z")
    assert abs(clock.parse_time(text) - instant_at) <= 0.0011


def test_a_second_never_rounds_up_to_sixty():
    """The last half millisecond of a second stays in it."""
    assert "1970-01-01T00:00:59.999Z" == clock.iso_utc(59.9999999)


def test_people_see_the_day_only_when_it_is_not_today(zone):
    """Local time has its date unless it is that of *now*."""
    zone("UTC")
    noon_at = clock.parse_time("2030-01-31T12:00:00Z")

    shown = [clock.local_text(noon_at, noon_at + later_s) for later_s in (0, 11 * 3600, 13 * 3600)]

    assert ["12:00:00", "12:00:00", "2030-01-31 12:00:00"] == shown
    assert "2030-01-31 12:00:00" == clock.local_text(noon_at)
