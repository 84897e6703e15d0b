"""Do the deviances agree? Judged before anything is timed."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

from .bars import OURS

AGREE = 1e-6  # relative: what a fit may miss of the optimum and still be the same fit
REFERENCE = "lme4"


@dataclass(frozen=True, slots=True)
class Verdict:
    """word: "agrees", "above" (did not reach the optimum) or "below" (not the same criterion). gap: relative."""

    word: str
    gap: float


def judge(
    deviances: Mapping[str, float],
    ours: str = OURS,
    reference: str = REFERENCE,
    approximate: Set[str] = frozenset(),
) -> tuple[dict[str, Verdict], str]:
    """Compare each deviance with the lower of ours and the reference's; why nothing may be timed, or "".

    Ours may be lower than any other. It must not be higher than the reference's; nor, unless the reference agrees with
    it, than that of any other exact software: then nobody knows who is right.
    """
    if ours not in deviances:
        return {name: Verdict("agrees", 0.0) for name in deviances}, f"no deviance of {ours}"
    target = min(deviances[name] for name in (ours, reference) if name in deviances)
    verdicts = {name: _verdict(value, target) for name, value in deviances.items()}
    if verdicts[ours].word == "above":
        return verdicts, f"{ours} is {verdicts[ours].gap:.1e} (relative) above {reference}"
    sure = reference in verdicts and verdicts[reference].word == "agrees"
    lower = [name for name, v in verdicts.items() if v.word == "below" and name not in approximate]
    if lower and not sure:
        return verdicts, f"{', '.join(lower)} below {ours}, and no {reference} that agrees with {ours}"
    return verdicts, ""


def _verdict(value: float, target: float) -> Verdict:
    gap = (value - target) / max(abs(target), 1.0)
    return Verdict("agrees" if abs(gap) <= AGREE else "above" if gap > 0 else "below", gap)
