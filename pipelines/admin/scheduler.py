"""Checks over the REST API whether a Prefect server plans runs for its deployments; does not import prefect.

    unscheduled("http://127.0.0.1:4200/api")        # ["nightly/nightly"]: active schedule, no planned run

A server whose scheduler service fails still answers and registers deployments, but never creates a scheduled run.
Prefect 3.8.8 fails so with SQLAlchemy 2.1 ("Can't evaluate bulk DML statement" in its log).
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

PAGE = 200  # deployments per response, the maximum of the API
TIMEOUT_S = 10.0
ADVICE = (
    "the server's scheduler service does not work or is switched off; look for 'schedule' in the server's log, "
    "and check that the server runs with sqlalchemy<2.1"
)


class MissingServer(RuntimeError):
    """A command that needs a Prefect server was called without one."""


class SchedulerError(RuntimeError):
    """A Prefect server registers deployments, but plans none of their runs."""


def unscheduled(api_url: str) -> list[str]:
    """Names ("flow/deployment") of active deployments that have an active schedule, but no run in the future.

    A schedule whose next run is more than 100 days away is listed as well: Prefect plans no further ahead.

    Raises:
        httpx.HTTPError: the server does not answer, or refuses.
    """
    import httpx

    with httpx.Client(base_url=f"{api_url.rstrip('/')}/", timeout=TIMEOUT_S, **_credentials()) as client:
        return sorted(
            f"{_flow(client, deployment)}/{deployment['name']}"
            for deployment in _deployments(client)
            if _is_scheduled(deployment) and not _has_future_run(client, deployment["id"])
        )


def _flow(client: Any, deployment: dict[str, Any]) -> str:
    """Name of the deployment's flow."""
    return str(client.get(f"flows/{deployment['flow_id']}").raise_for_status().json()["name"])


def _deployments(client: Any) -> list[dict[str, Any]]:
    deployments: list[dict[str, Any]] = []
    while True:
        page = _post(client, "deployments/filter", {"limit": PAGE, "offset": len(deployments)})
        deployments += page
        if len(page) < PAGE:
            return deployments


def _is_scheduled(deployment: dict[str, Any]) -> bool:
    return not deployment.get("paused") and any(schedule["active"] for schedule in deployment.get("schedules", ()))


def _has_future_run(client: Any, deployment: str) -> bool:
    """Late runs do not count: they stay when the scheduler has failed."""
    runs = {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {
            "state": {"type": {"any_": ["SCHEDULED"]}},
            "next_scheduled_start_time": {"after_": datetime.now(UTC).isoformat()},
        },
        "limit": 1,
    }
    return bool(_post(client, "flow_runs/filter", runs))


def _credentials() -> dict[str, Any]:
    """As Prefect's client: an API key, or user and password of a self-hosted server."""
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"headers": {"Authorization": f"Bearer {key}"}}
    if secret := os.environ.get("PREFECT_API_AUTH_STRING"):
        user, _, password = secret.partition(":")
        return {"auth": (user, password)}
    return {}


def _post(client: Any, path: str, content: dict[str, Any]) -> Any:
    return client.post(path, json=content).raise_for_status().json()
