"""The report: one HTML page of all tables and figures."""
