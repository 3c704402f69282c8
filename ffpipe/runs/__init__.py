"""A run from config to result: controller, recovery, run folder, and what reads a finished run."""
