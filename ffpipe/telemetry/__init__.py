"""Telemetry of a run: metrics by layer, reports by stage, the live table."""
