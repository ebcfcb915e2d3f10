"""One peer on one cell: the cheapest setting that reaches each gap, then its time, forward and with the gradient."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import call_times_ms, clock
from benchmarks.peers import PEERS
from benchmarks.peers.base import Peer
from benchmarks.tasks import Answer, Exact, Tasks, gradient_error, relative_gap

Row = dict[str, Any]
COUNT_PRECISION = 1.1  # numbers of steps are found to this factor
STALL = 0.8  # two doublings of the steps that do not bring the gap below this share of the best end a search


@dataclass(frozen=True)
class Attempt:
    """One solve while searching: its gap, and its seconds (once; for the curve of time against gap)."""

    setting: float
    gap: float
    seconds: float


def compete(name: str, path: str, targets: tuple[float, ...], limit_s: float, with_gradient: bool) -> list[Row]:
    """Rows of one peer, one for each target gap, for the (Tasks, Exact) stored at `path`.

    Single precision that stalls above a target is followed by a search in double precision: what a user would do.
    """
    peer = PEERS[name]
    tasks, exact = torch.load(path, weights_only=False)
    rows: dict[float, Row] = {}
    for dtype in (torch.float64,) if peer.double_only else dict.fromkeys((tasks.features.dtype, torch.float64)):
        missed = tuple(target for target in targets if not rows.get(target, {}).get("reached"))
        if missed and not any(row["limited"] for row in rows.values()):
            rows |= {row["target"]: row for row in Search(peer, tasks.to(dtype), exact, limit_s).rows(missed, with_gradient)}
    return list(rows.values())


class Search:
    """A peer on tasks of one type; no solve is started that is likely to take longer than `limit_s`."""

    def __init__(self, peer: Peer, tasks: Tasks, exact: Exact, limit_s: float) -> None:
        self.peer, self.tasks, self.exact, self.limit_s = peer, tasks, exact, limit_s
        self.solve = peer.prepare(tasks)
        self.attempts: list[Attempt] = []
        self.limited = False

    def rows(self, targets: tuple[float, ...], with_gradient: bool) -> list[Row]:
        """Search once for all targets, then time each."""
        self.solve(self.peer.settings[0])
        self.climb(min(targets))
        differentiate = None
        if with_gradient and self.peer.differentiable:
            differentiate = self.peer.prepare_gradient(self.tasks, self.exact.cotangent)
        rows = [self.row(target, differentiate) for target in targets]
        curve = [[attempt.setting, attempt.gap, 1e3 * attempt.seconds] for attempt in self.attempts]
        return [row | {"attempts": curve if row["target"] == min(targets) else []} for row in rows]

    def climb(self, target: float) -> None:
        """Growing settings until the gap is reached, stands still, or the next solve may take longer than the limit."""
        growth = 2 if self.peer.counts else 1
        begin = clock()
        for setting in self.peer.settings:
            latest = self.attempt(setting)
            if latest.gap <= target or self.stalled():
                return
            if growth * latest.seconds > self.limit_s or clock() - begin > 4 * self.limit_s:
                self.limited = True
                return

    def attempt(self, setting: float) -> Attempt:
        """Solve and judge; only the solve is timed, twice where one time would end the search."""
        answer, seconds = self.clocked(setting)
        if 2 * seconds > self.limit_s and seconds > 3 * max((past.seconds for past in self.attempts), default=0.0):
            answer, again = self.clocked(setting)
            seconds = min(seconds, again)
        self.attempts.append(Attempt(setting, relative_gap(self.tasks, answer, self.exact.minimum), seconds))
        return self.attempts[-1]

    def clocked(self, setting: float) -> tuple[Answer, float]:
        """The answer, and its seconds."""
        begin = clock()
        answer = self.solve(setting)
        return answer, clock() - begin

    def stalled(self) -> bool:
        """Whether the last two doublings did not help: rounding, not the number of steps, holds the gap up."""
        gaps = [attempt.gap for attempt in self.attempts]
        return self.peer.counts and len(gaps) > 4 and gaps[-1] < 1e-2 and min(gaps[-2:]) > STALL * min(gaps[:-2])

    def cheapest(self, target: float) -> float | None:
        """The first setting that reached the target, narrowed down when settings are numbers of steps."""
        settings = [attempt.setting for attempt in self.attempts]
        first = next((i for i, attempt in enumerate(self.attempts) if attempt.gap <= target), None)
        if first is None:
            return None
        high = settings[first]
        if self.peer.counts:
            low = settings[first - 1] if first else 0
            searched = len(self.attempts)
            while high > COUNT_PRECISION * low and high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if self.attempt(middle).gap <= target else (middle, high)
            del self.attempts[searched:]
        return high

    def row(self, target: float, differentiate: Callable[[float], Tensor] | None) -> Row:
        """What was found for one target. Times in ms; "limited" says that more time might have helped."""
        setting = self.cheapest(target)
        dtype = str(self.tasks.features.dtype).removeprefix("torch.")
        row: Row = {"target": target, "ran_in": dtype, "reached": setting is not None, "limited": False}
        if setting is None:
            longest = 1e3 * max(attempt.seconds for attempt in self.attempts)
            return {**row, "limited": self.limited, "gap": min(a.gap for a in self.attempts), "tried_ms": longest}
        row |= {"setting": setting, "gap": relative_gap(self.tasks, self.solve(setting), self.exact.minimum)}
        row |= timed("forward", lambda: self.solve(setting), self.limit_s)
        if differentiate is not None:
            row["gradient_error"] = gradient_error(differentiate(setting), self.exact.gradient)
            row |= timed("both", lambda: differentiate(setting), self.limit_s)
        return row


def timed(name: str, function: Callable[[], object], limit_s: float) -> Row:
    """Median and quartiles in ms over at least five calls, or fewer where one takes more than a fifth of the limit."""
    begin = clock()
    function()
    seconds = clock() - begin
    at_least = max(1, min(5, int(limit_s / max(seconds, 1e-9))))
    times = call_times_ms(function, seconds=min(0.5, limit_s), at_least=at_least)
    quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
    spread = {f"{name}_quartiles_ms": [quartiles[0], quartiles[2]], f"{name}_repetitions": len(times)}
    return {f"{name}_ms": statistics.median(times), **spread}
