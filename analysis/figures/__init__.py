"""Figures of finished runs, one module per kind; numbers come from the modules above, which import nothing from here.

`palette` holds the methods' colors, `style` the look and the pages that figures are laid out on, `labels`, `line_ends`
and `value_grid` what several kinds share, and `files` writes them. Made with Figure objects on Agg, without pyplot's
global state; PNG and PDF are the same bytes from the same runs.
"""
