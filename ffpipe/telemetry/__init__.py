"""What a run tells: metrics by layer, reports by stage, the live table."""
