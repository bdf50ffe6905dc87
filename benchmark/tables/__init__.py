"""Tables as data (`model`), cells made from numbers (`cells`), and their Markdown form (`markdown`).

Both `benchmark` and `analysis` print tables, so the model and the one renderer that both need are here; LaTeX, CSV and
HTML are in `analysis.tables`.
"""
