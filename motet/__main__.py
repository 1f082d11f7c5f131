"""`python -m motet`, and the script `motet`."""

from motet.commands import app  # noqa: F401  (flow commands join the commands of pipelines.cli)
from pipelines.cli.console import run as main

if __name__ == "__main__":
    main()
