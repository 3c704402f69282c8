"""What a run takes of memory, disk and time, and how it is cut to fit: arithmetic before the run."""
