"""One stage in memory at a time; the others wait on disk."""
