"""The search as a stage: its trials, their front, and its page."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from pipelines.core.progress import Report
from pipelines.core.stage import Stage
from pipelines.nightly import identity
from pipelines.search.page import render
from pipelines.search.search import search
from pipelines.stages.context import Context
from pipelines.stages.outcome import location
from pipelines.storage.store import fingerprint


def _search(context: Context, trials: int | None, resume: bool, report: Report) -> tuple[str, dict[str, Any]]:
    """Value: SearchResult as plain data, and the location of its page under `report`."""
    recipe, store = context.recipe, context.store
    with context.tracked(f"search {recipe.name} {identity(recipe, context.utterances)}") as run:
        result = search(
            recipe, context.utterances, context.features, store, trials, resume, tracking=run, progress=report
        )
        content = result.to_json()
        key = f"reports/{recipe.name}/search-{fingerprint(content)}"
        page = render(content, recipe)
        store.put_bytes(f"{key}.html", page.encode())
        run.log_text(page, "search.html")
        run.log_text(json.dumps(content["front"], indent=1), "front.json")
    states = Counter(row["state"] for row in result.leaderboard)
    text = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return f"{len(result.leaderboard)} trials: {text}", {**content, "report": location(store, f"{key}.html")}


SEARCH = Stage("search", _search, inputs=("ingest", "features"), unit="epoch", retries=0)  # Ray Tune retries trials
