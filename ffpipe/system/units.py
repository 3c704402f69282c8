"""Amounts as people write them: 2GiB, 10Gbit, 50us, 60TFLOPS."""

from __future__ import annotations

import re
from collections.abc import Mapping

# No amount is longer, and one that is may be beyond what can be counted.
LONGEST = 40
NUMBER = r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z/]+)"
SIZES = {name: 1000.0**n for n, name in enumerate(("B", "kB", "MB", "GB", "TB"))}
SIZES |= {name: 1024.0**n for n, name in enumerate(("B", "KiB", "MiB", "GiB", "TiB"))}
# Bytes a second: of networks, which are sold by the bit, and of whatever is measured in bytes.
BITS = {f"{prefix}bit": 1000.0**n / 8 for n, prefix in enumerate(("", "k", "M", "G", "T"))}
RATES = {f"{name}/s": size for name, size in (SIZES | BITS).items()} | BITS
RATES |= {f"{prefix}Bps": 1000.0**n for n, prefix in enumerate(("", "k", "M", "G", "T"))}
RATES |= {f"{name.removesuffix('it')}{per}": rate for name, rate in BITS.items() for per in ("/s", "ps")}
TIMES = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
FLOPS = {f"{prefix}FLOPS": 1000.0**n for n, prefix in enumerate(("", "k", "M", "G", "T", "P"))}


def parse_size(text: str) -> int:
    """Parse bytes from "2GiB", "800 MB". Raises ValueError, as do the others."""
    return int(_parse(text, SIZES, "size such as 2GiB or 800MB"))


def parse_rate(text: str) -> float:
    """Parse bytes a second from "10Gbit", "1.2 GB/s"."""
    return _parse(text, RATES, "rate such as 10Gbit or 1GB/s")


def parse_seconds(text: str) -> float:
    """Parse seconds from "50us", "1.5 ms"."""
    return _parse(text, TIMES, "time such as 50us or 2ms")


def parse_flops(text: str) -> float:
    """Parse floating point operations a second from "60TFLOPS"."""
    return _parse(text, FLOPS, "speed such as 60TFLOPS or 90GFLOPS")


def format_size(size: int) -> str:
    """Spell bytes: 2.0 GiB, 512 MiB."""
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def format_rate(rate: float) -> str:
    """Spell bytes a second as networks are sold: 1.25 Gbit/s, 80 Mbit/s."""
    bits = rate * 8
    return f"{bits / 1e9:,.2f} Gbit/s" if bits >= 1e9 else f"{bits / 1e6:,.0f} Mbit/s"


def format_seconds(seconds: float) -> str:
    """Spell seconds: 1.5 ms, 12 s, 2 h 5 min."""
    if seconds < 0.9995:  # which are a second in three digits
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 600:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60} min"


def _parse(text: str, units: Mapping[str, float], what: str) -> float:
    """Parse an amount in one of these units, in whatever case they are written."""
    found = re.fullmatch(NUMBER, text) if len(text) <= LONGEST else None
    number, name = found.groups() if found else ("", "")
    meant = {each for known, each in units.items() if known.lower() == name.lower()}
    if name in units:  # else there may be two: Gb/s is not GB/s
        meant = {units[name]}
    if len(meant) != 1:
        raise ValueError(f"{text[:LONGEST]!r}, which is not a {what}")
    return float(number) * meant.pop()
