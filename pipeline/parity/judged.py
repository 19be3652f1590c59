"""What a rung leaves behind, and differences that were accepted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from pipeline.parity.compared import Compared
from pipeline.parity.evidence import Suspect
from pipeline.parity.quantity import PHASES, Quantity
from pipeline.parity.tested import Excess
from pipeline.parity.verdict import Finding, Rung

PHASE_WORDS = {"loss": "loss", "gradient": "gradients", "activation": "forward"}
PHASE_WORDS |= {"prediction": "evaluation"}
PHASE_WORDS |= dict.fromkeys(("rate", "slot", "parameter"), "update")
RUNG_OF = {"loss": "loss", "gradient": "gradients", "activation": "forward"}
RUNG_OF |= dict.fromkeys(("rate", "slot", "parameter"), "update")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """One rung, and what it leaves for the whole ladder.

    Attributes
    ----------
    findings
        The first FAIL of each kind here.
    suspects
        Places that a second opinion may still excuse, the first of each kind.
    accepted
        Names of `parity.accept` that a difference here was accepted under.
    notes
        What is to know besides.
    unmapped
        Of the structure, whether parameters have no partner and may have one.
    """

    rung: Rung
    findings: tuple[Finding, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    accepted: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    unmapped: bool = False


def accept_names(rung: str, quantity: Quantity) -> set[str]:
    """Return the names under which a difference of a quantity on a rung may be accepted."""
    names = {rung, quantity.kind, quantity.key, quantity.name, quantity.label}
    return names | {RUNG_OF.get(quantity.kind, rung)}


def matching_names(pair: Compared, rung: str, excess: Excess) -> set[str]:
    """Return the names of `parity.accept` that an excess is accepted under."""
    return accept_names(rung, excess.suspect.quantity) & set(pair.accept)


def accept_or_fail(pair: Compared, judged: Judged, names: set[str]) -> Judged:
    """Turn a failed rung into one with an accepted difference, if its name is accepted."""
    matching = (names | {judged.rung.name}) & set(pair.accept)
    if not matching:
        return judged
    why = f"{describe_accepted(pair, matching)}; {judged.rung.why}"
    rung = dataclasses.replace(judged.rung, verdict="PASS", kind="", by="accepted", why=why)
    return dataclasses.replace(
        judged, rung=rung, findings=(), suspects=(), accepted=frozenset(matching)
    )


def with_accepted(judged: Judged, accepted: Sequence[Judged]) -> Judged:
    """Return a judged rung together with differences of it that were accepted before."""
    if not accepted:
        return judged
    names = judged.accepted.union(*(each.accepted for each in accepted))
    rung = judged.rung
    if rung.verdict == "PASS":
        whys = dict.fromkeys([*(each.rung.why for each in accepted), rung.why])
        rung = dataclasses.replace(rung, by="accepted", why="; ".join(whys))
    return dataclasses.replace(judged, rung=rung, accepted=names)


def describe_accepted(pair: Compared, names: Iterable[str]) -> str:
    """Return which names of `parity.accept` a difference was accepted under, and why."""
    return "accepted: " + "; ".join(f"{name} ({pair.accept[name]})" for name in sorted(names))


def describe_tolerance(pair: Compared) -> str:
    """Return the tolerance that was given, as its inequality."""
    rtol, atol = pair.tolerance or (0.0, 0.0)
    return f"given, |a − b| <= {atol:g} + {rtol:g}·|b| for every element"


def phase_number(quantity: Quantity) -> int:
    """Return where a quantity stands in its update; what is no part of one stands first."""
    return PHASES.index(quantity.kind) if quantity.kind in PHASES else 0
