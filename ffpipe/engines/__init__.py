"""The orders in which the grid of stages and items is worked."""
