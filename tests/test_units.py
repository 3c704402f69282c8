"""Amounts as people write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ffpipe.system.units import (
    format_rate,
    format_seconds,
    format_size,
    parse_flops,
    parse_rate,
    parse_seconds,
    parse_size,
)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_size, "2GiB", 2 << 30),
        (parse_size, "1.5 GB", 1_500_000_000),
        (parse_size, "800MB", 800_000_000),
        (parse_size, "7B", 7),
        (parse_size, "1TB", 10**12),
        (parse_size, "64kib", 65536),
        (parse_rate, "10Gbit", 1.25e9),
        (parse_rate, "100 Mbit/s", 12.5e6),
        (parse_rate, "10Gb/s", 1.25e9),
        (parse_rate, "10Gbps", 1.25e9),
        (parse_rate, "10gbit", 1.25e9),
        (parse_rate, "1GB/s", 1e9),
        (parse_rate, "10GBps", 1e10),
        (parse_rate, "1.5GB/s", 1.5e9),
        (parse_seconds, "50us", 50e-6),
        (parse_seconds, "2 ms", 2e-3),
        (parse_flops, "60TFLOPS", 60e12),
    ],
)
def test_what_is_read(parse: Callable[[str], float], text: str, value: float) -> None:
    assert parse(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "2", "GiB", "2XB", "-1GiB", "1e9B", "2 GiB ", "2GiB/s", "1,5GB", "9" * 400 + "B"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="not a size such as 2GiB or 800MB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["10gb/s", "10gbps"])
def test_a_rate_that_may_mean_bits_or_bytes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a rate such as 10Gbit or 1GB/s"):
        parse_rate(text)


def test_what_is_said() -> None:
    assert [format_size(size) for size in (3 << 20, 5 << 30)] == ["3 MiB", "5.00 GiB"]
    assert [format_rate(rate) for rate in (1.25e9, 1e6)] == ["10.00 Gbit/s", "8 Mbit/s"]
    said = [format_seconds(seconds) for seconds in (0.0015, 12.34, 1800, 9000)]
    assert said == ["1.5 ms", "12.3 s", "30 min", "2 h 30 min"]
