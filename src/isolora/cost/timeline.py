"""How full memory is in the course of a step, layer by layer; and how full it would be with more layers of the same kinds.

A step goes through segments: what comes before the layers, each layer on the way up, the head and the loss, each layer on the way
down, the update. A segment is known by what it leaves behind and by how much it takes at its fullest. Like layers have like
segments, so that the fullest moment of a model of 80 layers follows from a model of a few.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from isolora.cost.layers import Kept, Layers, LayerTracker, Position


class CannotExtend(Exception):
    """The step does not go through its layers one after the other."""


@dataclass
class Segment:
    """Bytes relative to what is alive when it begins: at its fullest, and at its end; and of these the logits'."""

    position: Position
    backward: bool
    fullest: int = 0
    fullest_logits: int = 0
    end: int = 0
    end_logits: int = 0


class Timeline(LayerTracker):
    """The segments of a step as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.segments = [Segment(None, False)]
        self._alive = self._logits = self._begin = self._begin_logits = 0

    def begin_with(self, alive: int, logits: int) -> None:
        """The step begins with so many bytes alive."""
        self._alive = self._begin = alive
        self._logits = self._begin_logits = logits

    def note(self, alive: int, logits: int) -> None:
        """What is alive has changed."""
        self._alive, self._logits = alive, logits
        segment = self.segments[-1]
        if alive - self._begin > segment.fullest:
            segment.fullest, segment.fullest_logits = alive - self._begin, logits - self._begin_logits
        segment.end, segment.end_logits = alive - self._begin, logits - self._begin_logits

    def move(self, position: Position) -> None:
        last = self.segments[-1]
        if (last.position, last.backward) != (position, self.backward):
            self.segments.append(Segment(position, self.backward))
            self._begin, self._begin_logits = self._alive, self._logits


def kept_for_memory(layers: Layers) -> list[int]:
    """Two layers at each end and at the first trained one, whose neighbours differ, and one of each kind in between."""
    count = len(layers)
    kept = {0, 1, count - 2, count - 1, layers.first_trained, layers.first_trained + 1} & set(range(count))
    between: dict[int, list[int]] = {}
    for number, kind in enumerate(layers.kinds):
        if number not in kept:
            between.setdefault(kind, []).append(number)
    return sorted(kept | {numbers[:2][-1] for numbers in between.values()})


def fullest(segments: Sequence[Segment], layers: Mapping[str, Layers], kept: Kept) -> tuple[int, int]:
    """(bytes, of these the logits') at the fullest moment of the whole model's step, beside what was alive when it began.

    Raises CannotExtend where the step does not go through its layers in order.
    """
    alive = logits = most = most_logits = 0
    for segment in extended(segments, layers, kept):
        if alive + segment.fullest > most:
            most, most_logits = alive + segment.fullest, logits + segment.fullest_logits
        alive, logits = alive + segment.end, logits + segment.end_logits
    return most, most_logits


def extended(segments: Sequence[Segment], layers: Mapping[str, Layers], kept: Kept) -> Iterator[Segment]:
    """The segments of the whole model, in order."""
    run: list[Segment] = []
    for segment in [*segments, None]:
        if run and not _follows(run[-1], segment):
            yield from _whole_run(run, layers, kept)
            run = []
        if segment is not None and segment.position is None:
            yield segment
        elif segment is not None:
            run.append(segment)


def _follows(last: Segment, segment: Segment | None) -> bool:
    """Whether a layer's segment goes on in the same pass over the same list."""
    if segment is None or segment.position is None or last.position is None:
        return False
    rises = segment.position[1] > last.position[1]
    return segment.position[0] == last.position[0] and segment.backward == last.backward and rises != segment.backward


def _whole_run(run: Sequence[Segment], layers: Mapping[str, Layers], kept: Kept) -> Iterator[Segment]:
    """One pass over a list of layers, up or down, with all of its layers."""
    by_number = {segment.position[1]: segment for segment in run if segment.position}
    name, backward = run[0].position[0] if run[0].position else "", run[0].backward
    list_, lowest = layers[name], min(by_number)
    if lowest not in ({0, list_.first_trained} if backward else {0}):
        raise CannotExtend
    if sorted(by_number) != [number for number in kept[name] if number >= lowest]:
        raise CannotExtend
    numbers = range(lowest, len(list_))
    for number in reversed(numbers) if backward else numbers:
        yield by_number[_like(number, list_, kept[name])]


def _like(number: int, layers: Layers, kept: Sequence[int]) -> int:
    """The kept layer that stands for this one."""
    if number in kept:
        return number
    ends = {0, len(layers) - 1, layers.first_trained}
    return max(other for other in kept if layers.kinds[other] == layers.kinds[number] and other not in ends)
