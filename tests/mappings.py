"""What this process has in sight of its mappings, by the system's own account."""

from __future__ import annotations

from pathlib import Path


def resident(of: Path | int) -> int:
    """Bytes of a mapped file, or of the mapping that holds an address."""
    found, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            start, end = (int(number, 16) for number in words[0].split("-"))
            ours = start <= of < end if isinstance(of, int) else words[-1] == str(of)
        elif ours and words[0] == "Rss:":
            found += int(words[1]) << 10
    return found
