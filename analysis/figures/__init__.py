"""Figures of finished runs, one module per kind; numbers come from the modules above, which import nothing from here.

Made with Figure objects on Agg, without pyplot's global state; PNG and PDF are the same bytes from the same runs.
"""
