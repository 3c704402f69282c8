"""The pipeline: which work may run when, what a stage does with it, and the engines that run it."""
