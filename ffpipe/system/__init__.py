"""The machine and the process: memory, files, environment, units, errors, stateless randomness."""
