"""MLflow runs, registered versions and their aliases, and the ledger of champions."""
