"""The HTML page of a search: its Pareto front, charts of the trade-offs between tasks, and every trial.

html = render(result.to_json(), recipe)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.recipe import Recipe
from pipelines.report import charts
from pipelines.report.builder import SYNTHETIC as SPOKEN
from pipelines.report.page import SYNTHETIC, environment
from pipelines.search.front_charts import pair_charts, parallel
from pipelines.search.front_table import front_lines, front_rows


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
