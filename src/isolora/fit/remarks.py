"""What a person should know about a fit: points that were left out, columns that no law reads, rates and parameters at an end."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from isolora import laws
from isolora.errors import TableError
from isolora.fit.best_rates import about_settings, rates_at_the_edge
from isolora.fit.continuation import about_shared_seeds
from isolora.fit.families import about_families
from isolora.fit.fit_points import REPEATED, Points, by_group, counted_by_examples, families_of
from isolora.fit.result import Fit
from isolora.fit.target import Target
from isolora.fit.thinning import thinning_summary
from isolora.fit.unseen import spikes, unseen
from isolora.metrics.direction import is_known_measure
from isolora.table import MEASURED_ON, SHORT_NAMES, TEXT_COLUMNS, Table, fields_in

_READ = {
    *("loss", "learning_rate", "rank", "seed", "seconds", "step", "passes", "train_loss", "padding_tokens", "unique_examples"),
    *("model_parameters", "peak_memory_bytes", "forgetting", "flops_by_group", "environment", "changed", "reason"),
    *SHORT_NAMES.values(),
    *TEXT_COLUMNS,
}
_PLATEAUS, _POWERS = ("plateau", "rectified"), ("power", "additive", "tied", "multiplicative", "interacting")
_SHARED = 0.2
_MOSTLY = 0.75
"""Share of the curves that end above where they began, from which on more training is not what a law takes it for."""
_CHEAPEST, _DEAREST = 0.05, 5000.0
"""FLOPs a token and weight: of mixtures of many experts, and of tiny bodies under large heads."""


def demand_sizes(table: Table) -> None:
    """Raises TableError when a table names several base models and the size of none: one curve for all would be nonsense."""
    if "model" not in table or ("body_parameters" in table and np.isfinite(table["body_parameters"]).any()):
        return
    names = sorted({str(name) for name in table["model"]})
    if len(names) > 1:
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        why = table.why_absent("body_parameters")
        raise TableError(
            f"the table names {len(names)} models ({shown}) without a size; map their weights with --map n=COLUMN{why}"
        )


def demand_one_measure(table: Table) -> None:
    """Raises TableError where runs were measured on other data or for other tasks, so that their losses mean other things."""
    words = sorted(set(map(str, table[MEASURED_ON]))) if MEASURED_ON in table else []
    if len(words) < 2:
        return
    given = [fields_in(each) for each in words]
    name = next(name for name in given[0] if len({fields.get(name) for fields in given}) > 1)
    values = sorted({fields[name] for fields in given if name in fields})
    shown = ", ".join(values[:4]) + (f" and {len(values) - 4} more" if len(values) > 4 else "")
    raise TableError(
        f"the runs were measured with different {name} ({shown}), so that their losses do not compare; choose some with"
        f" --where {name}={values[0]}"
    )


def left_out(aim: Target, chosen: Table, seen: tuple[Points, Points], fit: Fit) -> dict[str, int]:
    """How many rows of the table the law did not see, by reason. seen: points before and after they were thinned."""
    measured, points = seen
    started = len(chosen) - len(measured)
    reasons = {
        **aim.table.left_out,
        **aim.left_out,
        f"other learning rates{' or settings' if about_settings(aim.table) else ''} than the best": len(aim.table) - len(chosen),
        "at 0 tokens, which only laws with a plateau use": started,
        thinning_summary(measured, points): len(measured) - len(points),
        f"before the law's first {fit.cut:,.0f} {fit.unit_of_cut}": len(points) - fit.points,
    }
    return {reason: count for reason, count in reasons.items() if count}


def remarks(aim: Target, chosen: Table, fit: Fit, trials: Table | None = None) -> Iterator[str]:
    """Sentences, most important first. trials: of learning rates, where those chose them."""
    table = aim.table
    yield from filter(None, (aim.instead, _about_rising(fit, chosen), _about_repeats(fit, chosen)))
    if fit.shape.last_resort and (other := counted_by_examples(table)):
        yield f"the table has no tokens: the law is of FLOPs alone; map them with --map d=COLUMN{other}"
    if families := about_families(families_of(chosen), seen=bool(fit.families)):
        yield families
    if settings := about_settings(table):
        yield settings
    if fit.runs == 1:
        yield "the law rests on one trajectory: how much another run would differ is not known"
    if fit.drift > 0 and not fit.holdout:
        yield f"too few points to hold any out: the interval takes {fit.drift:.1%} of error at a distance of 1 on trust"
    if shared := about_shared_seeds(fit.continuation):
        yield shared
    yield from about_bounds(fit)
    yield from _about_forms(fit)
    yield from _about_units(chosen)
    yield from _about_unseen(fit, chosen)
    if found := spikes(fit, chosen):
        yield found
    edges = rates_at_the_edge(table, trials)
    if edges:
        more = f" and {len(edges) - 3} more" if len(edges) > 3 else ""
        yield f"the best learning rate of {'; '.join(edges[:3])}{more} is at the edge of those tried: a better one may lie beyond"
    unread = [name for name in chosen.columns if name not in _READ | chosen.used and not is_known_measure(name)]
    if unread:
        yield f"no law reads {'column' if len(unread) == 1 else f'{len(unread)} columns:'} {', '.join(unread)}"
    yield from table.notes


def _about_rising(fit: Fit, table: Table) -> str:
    """That the measure grows with training, in words, as a score does that was taken for a loss; empty where it does not, and
    for laws of repeats, which may rise."""
    if fit.shape.grows or "u" in fit.shape.demands or "tokens" not in table:
        return ""
    by_size = len(set(map(str, table["run"]))) == len(table)
    names = [name for name in ("body_parameters", "method", "rank") if by_size and name in table] or ["run"]
    groups = np.unique(np.stack([table[name].astype(str) for name in names]), axis=1, return_inverse=True)[1].ravel()
    curves = [rows for rows in by_group(groups, table["tokens"]) if len(rows) > 2]
    grown = sum(bool(table["loss"][rows[-1]] > table["loss"][rows[0]]) for rows in curves)
    if not curves or grown < _MOSTLY * len(curves):
        return ""
    return (
        f"{fit.target} grows with tokens in {grown} of {len(curves)} curves, and no law does: if more of it is better, name its"
        " column with --target, or ask for '1 - COLUMN'"
    )


def _about_repeats(fit: Fit, table: Table) -> str:
    """That tokens seen again count as new ones, where no law that tells them apart was tried; empty where one was."""
    tried = {fit.law, *(str(candidate["law"]) for candidate in fit.candidates)}
    if "tokens" not in table or "unique_tokens" not in table or any("u" in laws.resolve(name).demands for name in tried):
        return ""
    passes_M = table["tokens"] / table["unique_tokens"]
    repeated = int((passes_M > REPEATED).sum())
    if not repeated:
        return ""
    return (
        f"{repeated} of {len(table)} points saw their data more than once, up to {np.nanmax(passes_M):.3g} passes, and law"
        f" {fit.law} takes repeated tokens for new ones"
    )


def assumed(fit: Fit) -> tuple[str, ...]:
    """All that a fit took for granted and left out, in sentences: what an answer that rests on it has to tell."""
    return (*fit.remarks, *(f"{count:,} points left out: {reason}" for reason, count in fit.left_out.items()))


def about_bounds(fit: Fit) -> Iterator[str]:
    """Of each parameter at an end of where it is looked for: what else the points allow."""
    for name in fit.pinned:
        value, edge = fit.parameters[name], fit.edges.get(name)
        place = "no floor is seen" if name == fit.shape.coefficients[0] else "an end of where it is looked for"
        if edge is None:
            yield f"{name} = {value:.3g} ({place}): the points press against it, and the law may be the wrong one"
            continue
        other = edge[fit.shape.parameters.index(name)]
        yield f"{name} = {value:.3g}: {place}, but the points allow {other:.3g} as well, and the interval reaches to that"


def _about_units(table: Table) -> Iterator[str]:
    """FLOPs that no training costs: what a budget buys is off by the same factor."""
    if not {"flops", "tokens", "body_parameters"} <= table.columns.keys():
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(np.nanmedian(table["flops"] / (table["tokens"] * table["body_parameters"])))
    if np.isfinite(ratio) and not _CHEAPEST < ratio < _DEAREST:
        yield f"flops are {ratio:.2g} a token and weight, where training takes about 6: is the column in another unit?"


def _about_unseen(fit: Fit, table: Table) -> Iterator[str]:
    """What sets the points apart and the law does not read."""
    texts = [name for name in table.columns if name not in _READ and table[name].dtype == object]
    for name, words in unseen(fit, table, texts).items():
        yield f"the law reads no {name}: {words}; choose some with --where {name}=..."


def _about_forms(fit: Fit) -> Iterator[str]:
    """Whether the points tell a plateau before the power law from none."""
    shares = dict.fromkeys((_PLATEAUS, _POWERS), 0.0)
    for member in fit.members:
        plain = laws.resolve(member.law).name.partition("+")[0]
        for forms in shares:
            shares[forms] += member.weight * (plain in forms)
    if min(shares.values()) >= _SHARED:
        yield "the points do not tell a plateau at few tokens from a power law: the interval carries both"
