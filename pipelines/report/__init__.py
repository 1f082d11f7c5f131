"""What a person looks at after a night: its story, findings, charts and page."""
