"""Figures: one style, one file per kind of figure."""
