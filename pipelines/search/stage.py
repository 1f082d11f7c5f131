"""The search as a stage, and the HTML page of its Pareto front, trade-offs between tasks, and trials."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipelines.core.progress import Report
from pipelines.core.stage import Stage
from pipelines.nightly import identity
from pipelines.recipe import Recipe
from pipelines.report import charts
from pipelines.report.builder import SYNTHETIC as SPOKEN
from pipelines.report.page import SYNTHETIC, environment
from pipelines.search.front_charts import pair_charts, parallel
from pipelines.search.front_table import front_lines, front_rows
from pipelines.search.search import search
from pipelines.stages.context import Context
from pipelines.stages.outcome import location
from pipelines.storage.store import fingerprint


def _search(context: Context, trials: int | None, resume: bool, report: Report) -> tuple[str, dict[str, Any]]:
    """Value: SearchResult as plain data, and the location of its page under `report`."""
    recipe, store = context.recipe, context.store
    with context.tracked(f"search {recipe.name} {identity(recipe, context.utterances)}") as run:
        result = search(context, trials, resume, tracking=run, progress=report)
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


def render(result: Mapping[str, Any], recipe: Recipe) -> str:
    """The page of SearchResult.to_json()."""
    from markupsafe import Markup

    front = result["front"]
    drawn = (front["costs"], front["metrics"], front["trials"], front["knee"])
    volumes = [(float(number), volume) for number, volume in enumerate(front["history"], start=1)]
    curve = {"hypervolume, %": volumes} if any(front["history"]) else {}
    return (
        environment()
        .get_template("search.html.j2")
        .render(
            search=result,
            recipe=recipe,
            rows=front_rows(result),
            lines=front_lines(result),
            pairs=[Markup(chart) for chart in pair_charts(*drawn)],
            parallel=Markup(parallel(*drawn)),
            curve=Markup(charts.line_chart(curve, x_label="trials ended", y_label="hypervolume, %")),
            note=SYNTHETIC,
            synthetic=any(corpus.kind == SPOKEN for corpus in recipe.corpora),
        )
    )
