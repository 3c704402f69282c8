"""Memory, disk and time that a run takes, and its cut to fit: arithmetic before the run."""
