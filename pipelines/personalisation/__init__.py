"""A user's adapter: enrolled, judged, registered, loaded with its base."""
