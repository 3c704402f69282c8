"""Reports: what a run did and learned, as one HTML file with pictures. Needs matplotlib (extra `report`)."""

from ffpipe.reports.report import watch_report, write_report

__all__ = ["watch_report", "write_report"]
