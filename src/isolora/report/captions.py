"""What each figure shows, in a sentence or two under its title."""

from __future__ import annotations

from isolora.report import wording as words
from isolora.report.forgetting import endings
from isolora.report.method_comparison import MOST
from isolora.report.rate_cells import MOST_NAMES, cells_with_rates
from isolora.report.study_report import StudyReport
from isolora.report.work import largest, total


def loss_curves_caption(study: StudyReport) -> str:
    marks = "colours are base models, symbols " + ("methods" if len(study.families) > 1 else "ranks")
    if len(study.models) > MOST_NAMES:
        marks = f"colours are {len(study.models)} base models, small to large (hover for names)"
    elif len(study.families) > 1 and len(study.models) == 1:
        many = len(study.families) > MOST_NAMES
        marks = (
            f"colours and symbols are {len(study.families)} methods (hover for names)"
            if many
            else "colours and symbols are methods"
        )
    if study.fit is None:
        return f"Each run at its evaluations on held-out text; {marks}. Thin lines are trials at other learning rates."
    ahead = " The star is the prediction." if study.recommended else ""
    if study.recommended and study.verification:
        ahead = " The star is the prediction, far to the right of every run; the ring is what was measured there."
    return (
        f"Points are measured on held-out text, lines are the fitted law; {marks}. "
        f"Hollow points lie before the law's range; thin lines are trials at other learning rates.{ahead}"
    )


def isoflop_caption(study: StudyReport) -> str:
    ahead = " The dashed line is the recommended budget." if study.recommended else ""
    return (
        "Each line spends the same compute on smaller or larger base models, and the larger see fewer tokens for it: "
        f"take the size where the line is lowest. Points are measured, lines are the law.{ahead}"
    )


def frontier_caption(study: StudyReport) -> str:
    if study.fit is None or not study.options:
        return f"The lowest {study.target} measured for so much compute or less, with every run behind it."
    return (
        f"The best {study.target} that each budget can buy, in the colour of the base model that buys it, with the measured runs "
        "behind. The band is the 95 % interval; everything right of the dotted line is extrapolation."
    )


def agreement_caption(study: StudyReport) -> str:
    strip = "Points on the line are predicted exactly; the grey strip is 2 % to either side."
    holdout = study.fit.holdout if study.fit else {}
    if not holdout:
        return strip
    return (
        f"{strip} Squares were held out: the law predicted {holdout['count']} of them from smaller budgets, "
        f"with a median error of {words.percent(holdout['median'])} and {words.percent(holdout['max'])} at worst."
    )


def work_caption(study: StudyReport) -> str:
    shares = [sum(spent["adapter"].values()) / total(spent) for spent in largest(study).values() if "adapter" in spent]
    low, high = words.percent(min(shares, default=0)), words.percent(max(shares, default=0))
    adapter = f" The adapter's own products take {low if low == high else f'{low} to {high}'}." if shares else ""
    return (
        "What the largest run of each base model spent its FLOPs on, as the ledger booked them batch by batch: "
        f"colours are parts of the model, shades are phases.{adapter}"
    )


def forgetting_caption(study: StudyReport) -> str:
    """What was learned against what was lost on other texts."""
    found = endings(study)
    if not found:
        return ""
    best, kept = found[0], min(found, key=lambda ending: ending.forgetting)
    said = (
        f"{best.name} learns most ({study.target} {best.loss:.3f}) and adds {best.forgetting:+.3f} nats per token on other texts"
    )
    other = "" if kept is best else f"; {kept.name} forgets least ({kept.forgetting:+.3f}, {study.target} {kept.loss:.3f})"
    return f"{said}{other}. Each mark is a run at its end, its area the compute; lower left is better."


def methods_caption(study: StudyReport) -> str:
    cut = f" The best {MOST} of {len(study.cells)} are drawn." if len(study.cells) > MOST else ""
    return (
        "Each method at its best learning rate, best at the top: large marks are means, small ones single seeds. "
        f"Marks that overlap are not told apart by this study.{cut}"
    )


def rates_caption(study: StudyReport) -> str:
    tried = cells_with_rates(study)
    edges = [cell for cell in tried if cell.edge]
    if not edges:
        return f"{words.plural(len(tried), 'cell')} tried several rates; every best one lies between worse ones."
    return (
        f"{words.plural(len(tried), 'cell')} tried several rates; in {len(edges)} the best is the last one on its side "
        "(red), so a better one may lie beyond."
    )


def importance_caption(study: StudyReport) -> str:
    ended = [trial for trial in study.search.trials if trial.state == "DONE"] if study.search else []
    return (
        f"How much of the spread between {len(ended)} finished trials each parameter explains, as a random forest sees it. "
        "A parameter that was searched over a narrow range looks unimportant."
    )


def parallel_caption(study: StudyReport) -> str:
    return (
        "Each finished trial is a line through its parameters to its value on the right; the best are thick. "
        "Where the thick lines meet, a parameter matters; where they spread, it does not."
    )
