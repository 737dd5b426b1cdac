"""Items of the TRIPOD+AI checklist for studies that develop or evaluate a prediction model.

Collins et al. 2024, BMJ 385:e078378: 27 items, of which some have parts, 52 in all. Numbers, sections and what an item
is for are those of the statement. Topics are in words of our own: the published text says what each item asks for.
"""

from __future__ import annotations

from typing import NamedTuple

DEVELOPMENT, EVALUATION, BOTH = "development", "evaluation", "both"


class Item(NamedTuple):
    """The section of a publication, what an item is about, and for which studies it is."""

    section: str
    topic: str
    studies: str


_SECTIONS: dict[str, dict[str, str]] = {
    "Title": {
        "1": "development or evaluation, target population, outcome",
    },
    "Abstract": {
        "2": "abstract by TRIPOD+AI for Abstracts",
    },
    "Introduction": {
        "3a": "medical context, reason for the model, models that exist",
        "3b": "intended use: population, place in care, users",
        "3c": "known health inequalities between groups of people",
        "4": "objectives",
    },
    "Methods": {
        "5a": "sources of the data, and how representative they are",
        "5b": "dates of the data",
        "6a": "setting: kinds, number and location of centres",
        "6b": "criteria of eligibility",
        "6c": "treatments, and how they were handled",
        "7": "preparation and quality of the data",
        "8a": "outcome: definition, time, way of assessment",
        "8b": "who assessed the outcome, with which qualification",
        "8c": "blinding of the assessment of the outcome",
        "9a": "choice of predictors",
        "9b": "definition and measurement of predictors",
        "9c": "who assessed predictors, with which qualification",
        "10": "sample size, and how it was arrived at",
        "11": "missing data",
        "12a": "use of the data for development and evaluation",
        "12b": "handling of predictors",
        "12c": "type of model, building, tuning, internal validation",
        "12d": "heterogeneity between centres or other clusters",
        "12e": "measures and plots of performance",
        "12f": "updating of the model after evaluation",
        "12g": "how predictions are computed in an evaluation",
        "13": "class imbalance",
        "14": "approaches to fairness",
        "15": "output of the model, and thresholds",
        "16": "differences between data of development and evaluation",
        "17": "ethical approval and consent",
    },
    "Open science": {
        "18a": "funding",
        "18b": "conflicts of interest",
        "18c": "study protocol",
        "18d": "registration",
        "18e": "availability of the data",
        "18f": "availability of the code",
    },
    "Patient and public involvement": {
        "19": "involvement of patients and the public",
    },
    "Results": {
        "20a": "flow of participants, with and without the outcome",
        "20b": "characteristics of participants, by data set",
        "20c": "predictors and outcome in evaluation against development",
        "21": "participants and outcome events in each analysis",
        "22": "full specification of the model, and access to it",
        "23a": "performance with intervals, also of key groups",
        "23b": "heterogeneity of performance between clusters",
        "24": "results of model updating",
    },
    "Discussion": {
        "25": "interpretation, fairness, earlier studies",
        "26": "limitations",
        "27a": "handling of poor or missing input",
        "27b": "interaction with users, and the expertise they need",
        "27c": "next steps of research",
    },
}

_STUDIES: dict[str, tuple[str, ...]] = {
    DEVELOPMENT: ("9a", "12a", "12b", "12c", "15", "22", "27a", "27b"),
    EVALUATION: ("12f", "12g", "20c", "24"),
}
_STUDIES_OF = {number: studies for studies, numbers in _STUDIES.items() for number in numbers}

ITEMS: dict[str, Item] = {
    number: Item(section, topic, _STUDIES_OF.get(number, BOTH))
    for section, topics in _SECTIONS.items()
    for number, topic in topics.items()
}
"""Items by number, in their order."""

INTENDED_USE, LIMITS = "3b", "26"
"""Items for which the configuration has a key of their own."""
