"""What every stage uses: environment, progress, Ray, redaction of secrets."""
