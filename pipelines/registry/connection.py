"""MLflow's address without its secrets for people, with them for MLflow alone.

    uri = redact(os.environ["MLFLOW_TRACKING_URI"])     # 'http://***@host:5000': in reports, errors, arguments of tasks
    mlflow.MlflowClient(tracking_uri=connection(uri))   # 'http://host:5000', user and password in the environment

MLflow quotes its address in errors and passes it on. A server's user and password therefore go where MLflow also
looks for them: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. A database's address must hold its password.
"""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit

from pipelines.core.redaction import redact

TRACKING, REGISTRY = "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"
USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
_connections: dict[str, str] = {}  # by the address as it is shown


def connection(uri: str) -> str:
    """What MLflow connects to where people are shown `uri`.

    The user and the password of a server's address replace those in the environment: requests prefers them too.
    """
    configured = os.environ.get(TRACKING)
    if configured and uri in (configured, redact(configured)):
        _connections[uri] = _bare(configured)
    # Within `tracking.as_default` the environment holds what MLflow connects to.
    return _connections.get(uri, uri)


def registry_connection() -> str | None:
    """MLFLOW_REGISTRY_URI as MLflow connects to it; None where it is that of the runs."""
    registry, tracking = os.environ.get(REGISTRY), os.environ.get(TRACKING, "")
    if not registry:
        return None
    # One user and one password are all that the environment can hold.
    return _bare(registry) if not tracking or _user(registry) == _user(tracking) else registry


def _bare(address: str) -> str:
    """The address without user and password, which the environment holds then; as it is where it cannot."""
    user, password = _user(address)
    if not user or not password:  # MLflow takes no user alone from the environment
        return address
    os.environ[USER], os.environ[PASSWORD] = user, password
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _user(address: str) -> tuple[str, str]:
    """User and password of a server's address, empty where it has none."""
    if not address.lower().startswith(("http://", "https://")):
        return "", ""
    parts = urlsplit(address)
    return unquote(parts.username or ""), unquote(parts.password or "")
