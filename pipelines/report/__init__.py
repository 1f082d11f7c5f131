"""The report of a night: its content, charts and page."""
