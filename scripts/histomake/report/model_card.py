"""The model card of a task: intended use, data, performance and limits, and what of these is not known."""

from __future__ import annotations

from histomake.base.tripod import INTENDED_USE, ITEMS, LIMITS
from histomake.report import page
from histomake.report.metric_texts import LEVELS
from histomake.report.metrics_section import FEW_PATIENTS, headline, metrics_table
from histomake.report.page import Html
from histomake.report.statistics_section import statistics_sections
from histomake.report.tripod import NOT_KNOWN, DescribedTask, known_items, outcome, split_text, stated_items


def model_card(found: DescribedTask) -> str:
    """The page as HTML. It names no slide and no patient."""
    texts = stated_items(found.task)
    parts = [
        page.tag("h1", f"Model card: {found.name}"),
        page.tag(
            "nav", page.link("report", "../index.html"), *(_anchor(n) for n in ("Data", "Performance", "TRIPOD+AI"))
        ),
        page.cards(_summary(found)),
        page.section("Intended use", _text(texts.get(INTENDED_USE), f"tasks.{found.name}.card.intended_use")),
        page.section("Limits", _text(texts.get(LIMITS), f"tasks.{found.name}.card.limits"), *_warnings(found)),
        page.section("Data", page.tag("p", outcome(found.task, found.card)), _cohort(found)),
        page.section("Split", page.tag("p", split_text(found))),
        page.section("Performance", *_performance(found)),
        page.section("TRIPOD+AI", *_checklist(found), anchor="tripod-ai"),
    ]
    return page.document(f"Model card: {found.name}", parts)


def _anchor(title: str) -> Html:
    return page.link(title, f"#{'tripod-ai' if title == 'TRIPOD+AI' else title.lower()}")


def _summary(found: DescribedTask) -> dict[str, object]:
    card, numbers = found.card, dict[str, object]()
    numbers[f"{found.task.kind} of {LEVELS[found.task.level].lower()}"] = ", ".join(card.class_names)
    numbers["models (folds)"] = len(found.cards)
    numbers["weights"] = card.parameters
    if found.metrics is not None:
        numbers["test patients"] = found.metrics.patients
        numbers |= dict(headline(found.metrics.levels))
    return numbers


def _text(text: str | None, key: str) -> Html:
    if text is not None:
        return page.tag("p", text)
    return page.tag("p", "Not stated. Set ", page.tag("code", key), ".", class_="warn")


def _warnings(found: DescribedTask) -> list[Html]:
    """Limits that follow from the results."""
    told = []
    if found.metrics is None:
        told.append("There are no test slides: the performance is not known.")
    elif found.metrics.patients < FEW_PATIENTS:
        told.append(f"Only {found.metrics.patients} test patients: the intervals are unreliable.")
    if not found.task.trained and max((planned.sites for planned in found.planned), default=0) < 2:
        told.append(
            "No two sites are known: it is not known how the model does at other sites and with other scanners."
        )
    if not found.task.trained and found.metrics is not None:
        told.append(
            "Training and test patients are of one sheet: an external validation only if its column split keeps "
            "whole sites for the test."
        )
    return [page.tag("p", text, class_="warn") for text in told]


def _cohort(found: DescribedTask) -> Html:
    header = ["fold", "role", "slides", "patients", "sites", "role from the sheet"]
    text = "As planned from the sheet. Slides that could not be read are left out; the report lists them."
    return page.join([page.table(header, [list(planned) for planned in found.planned]), page.tag("p", text)])


def _performance(found: DescribedTask) -> list[Html]:
    if found.metrics is None:
        return [page.tag("p", "There are no test slides.", class_="warn")]
    return [metrics_table(found.metrics, named=False), *statistics_sections(found.name, found.metrics)]


def _checklist(found: DescribedTask) -> list[Html]:
    """All items, with what people and results say; what is not known is said to be unknown."""
    stated, known = stated_items(found.task), known_items(found)
    rows = []
    for number, item in ITEMS.items():
        parts = [page.tag("div", text) for text in (stated.get(number), known.get(number)) if text]
        answer = page.join(parts) if parts else page.tag("i", NOT_KNOWN)
        rows.append([number, item.section, item.topic, item.studies, answer])
    unknown = sum(number not in stated and number not in known for number in ITEMS)
    text = (
        f"Items of TRIPOD+AI (Collins et al. 2024, doi:10.1136/bmj-2023-078378). {unknown} of {len(ITEMS)} are not "
        f"known. Texts for them are keys of tasks.{found.name}.card. Topics are abridged."
    )
    return [page.tag("p", text), page.table(["item", "section", "topic", "of studies of", "answer"], rows)]
