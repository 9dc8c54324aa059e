"""Findings over domains in words: once for tables, figures, pages and exports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..routing.domains.findings import NAMES, WORDS
from ..types import Facts, Json
from .names import isolated
from .numbers import count

ANSWER = "an answer, which has no interval of its own"

MOST_NAMED = 4
"""Experts that a sentence names at most."""

DEFINITION = (
    "r: share of the experts in effective use over all domains; MI: information of the domain of a text about the "
    "expert of a selection; s = MI / ln D; one expert: the largest "
    "share of tokens that a single expert has in more than half of the domains; idle: experts with hardly any load on "
    "any domain."
)


def meanings(thresholds: Facts) -> str:
    """What the words mean at these thresholds."""
    t = {name: f"{float(value):g}" for name, value in thresholds.items()}
    return (
        f"collapsed: r < {t['used']} and s < {t['specialisation']}; dominated: one expert's odds over {t['odds']} "
        f"times the even odds in most domains; idle: more than {t['idle_experts']} of the experts below "
        f"{t['idle_load']} of the even load; specialised: MI above 0 and s >= {t['least_specialisation']}, or a domain "
        "with an expert of its own; whole intervals must say so, else open. The word is the gravest yes, else balanced."
    )


def counted(words: Facts) -> str:
    """``5 specialised, 1 open``: routers per word."""
    parts = [f"{words[word]} {word}" for word in WORDS if words.get(word)]
    if words.get("null"):
        parts.append(f"{words['null']} without a word")
    return ", ".join(parts)


def remarks(router: Facts) -> Iterator[str]:
    """What a reader must know of a router's findings, a clause each: whom they are about, what is open and why."""
    findings, n_experts = router["findings"], router["n_experts"]
    reasons: dict[str, list[str]] = {}
    for name in NAMES:
        finding = findings["findings"][name]
        if finding["answer"] == "yes" and (experts := finding.get("experts")):
            yield f"{name}{_named(experts, n_experts if name == 'idle' else None)}"
        if finding["answer"] == "open":
            reasons.setdefault(_open(finding), []).append(name)
    for reason, names in reasons.items():
        yield f"{', '.join(names)} open{reason}"
    apart = findings["findings"]["collapsed"]["parts"]["specialisation"]
    if findings["findings"]["idle"]["answer"] == "yes" and _reaches(apart):
        yield "the idle experts may be those of domains that nobody measured"


def flags(router: Facts) -> Iterator[tuple[str, Json]]:
    """``finding.NAME``, 1 for yes, 0 for no and None with the reason for open, and 1 for ``word.WORD``."""
    findings = router["findings"]
    for name in NAMES:
        finding = findings["findings"][name]
        value = {"yes": 1, "no": 0}.get(finding["answer"])
        yield f"finding.{name}", {"value": value, "reason": ANSWER if value is not None else f"open{_open(finding)}"}
    if findings["word"] is None:
        yield "word", {"value": None, "reason": "no sequences"}
    else:
        yield f"word.{findings['word']}", {"value": 1, "reason": ANSWER}


def open_because(router: Facts) -> str | None:
    """Why a router's gravest open finding is open, and what would decide it; None where none is open."""
    findings = router["findings"]["findings"]
    gravest = next((findings[name] for name in NAMES if findings[name]["answer"] == "open"), None)
    return None if gravest is None else _open(gravest).strip(" ()")


def _reaches(part: Facts) -> bool:
    """Whether a number is at its threshold or above."""
    return part["value"] is not None and bool(part["value"] >= part["threshold"])


def _named(experts: Sequence[Facts], of: int | None) -> str:
    """Each with its domains, or how many they are ``of`` all."""
    if of is not None:
        return f": {len(experts)} of {count(of, 'expert')}"
    each = [f"expert {e['expert']} ({', '.join(map(isolated, e['domains']))})" for e in experts[:MOST_NAMED]]
    more = f" and {len(experts) - MOST_NAMED} more" if len(experts) > MOST_NAMED else ""
    return f": {', '.join(each)}{more}"


def _open(finding: Facts) -> str:
    if reason := finding.get("reason"):
        return f" ({reason})"
    if sequences := finding.get("sequences"):
        low, high = sequences
        return f" ({low:,} to {high:,} texts in all would decide it in 4 of 5 cases)"
    return " (too few texts to say how many would decide it)"
