"""MLflow's address: redacted where it is shown or stored, complete where MLflow connects.

    uri = redact(os.environ["MLFLOW_TRACKING_URI"])     # 'http://***@host:5000': in reports, errors, task arguments
    mlflow.MlflowClient(tracking_uri=connection(uri))   # 'http://host:5000', user and password in the environment

MLflow quotes its address in errors, so a server's user and password move from the address into
MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, which MLflow reads as well. A database's address keeps its
password.
"""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit

from pipelines.core.redaction import redact

TRACKING, REGISTRY = "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"
USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
_connections: dict[str, str] = {}  # by the address as it is shown


def connection(uri: str) -> str:
    """The address that MLflow connects to, for a redacted `uri`.

    User and password of a server's address replace those in the environment, as they do in requests.
    """
    configured = os.environ.get(TRACKING)
    if configured and uri in (configured, redact(configured)):
        _connections[uri] = _bare(configured)
    # Within `tracking.as_default` the environment holds the complete address.
    return _connections.get(uri, uri)


def registry_connection() -> str | None:
    """The address of MLFLOW_REGISTRY_URI that MLflow connects to; None if it is not set."""
    registry, tracking = os.environ.get(REGISTRY), os.environ.get(TRACKING, "")
    if not registry:
        return None
    # The environment holds only one user and one password.
    return _bare(registry) if not tracking or _user(registry) == _user(tracking) else registry


def _bare(address: str) -> str:
    """Moves user and password from the address to the environment, if there are both."""
    user, password = _user(address)
    if not user or not password:  # MLflow reads no user without a password from the environment
        return address
    os.environ[USER], os.environ[PASSWORD] = user, password
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _user(address: str) -> tuple[str, str]:
    """User and password of a server's address; empty if it has none."""
    if not address.lower().startswith(("http://", "https://")):
        return "", ""
    parts = urlsplit(address)
    return unquote(parts.username or ""), unquote(parts.password or "")
