"""The pipeline as plain Python: schedule, messages, stages, workers. Ray is not known here."""
