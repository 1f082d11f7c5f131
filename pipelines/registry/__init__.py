"""MLflow: runs, packages, versions, aliases, and who was champion when."""
