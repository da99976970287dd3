"""Lead arrows around boxes: along rows and columns, with few bends, never through a box."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Point = tuple[float, float]
Arrow = tuple[str, str]

_BEND, _CROSS, _OFF_CENTRE = 20.0, 24.0, 30.0  # what they cost, in pixels of detour
_TOUCH = 400.0  # to run along another arrow, or bend on it: it could not be read
_TRUNK = 0.9  # of the length, along an arrow from the same box: they look like one that splits


@dataclass(frozen=True)
class Box:
    """Hold where a box is, in pixels; y grows downwards."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Return the x of the right side."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """Return the y of the lower side."""
        return self.y + self.height

    @property
    def centre(self) -> Point:
        """Return the middle."""
        return self.x + self.width / 2, self.y + self.height / 2

    def is_crossed(self, start: Point, end: Point) -> bool:
        """Tell whether a horizontal or vertical line runs through the inside."""
        (x1, x2), (y1, y2) = sorted((start[0], end[0])), sorted((start[1], end[1]))
        return x1 < self.right and x2 > self.x and y1 < self.bottom and y2 > self.y


@dataclass(frozen=True)
class Routes:
    """Hold the way of each arrow, and how often one touches another so that both are hard to read.

    Attributes:
        ways: The corners of each arrow, from the side of a box to the side of another.
        touching: How many points an arrow shares with one from another box, crossings aside.
    """

    ways: dict[Arrow, list[Point]]
    touching: int


_Spot = tuple[int, int]
"""Column and row of a point where lines meet."""


@dataclass(frozen=True)
class _Door:
    """Hold a place on the side of a box where arrows leave or enter."""

    at: Point
    spot: _Spot  # the first outside
    heading: int  # outwards, in _HEADINGS
    price: float


_HEADINGS = ((1, 0), (-1, 0), (0, 1), (0, -1))


@dataclass(eq=False)
class _Streets:
    """Hold the lines on which arrows may run, and who runs there already."""

    boxes: Mapping[str, Box]
    xs: list[float]
    ys: list[float]
    users: dict[_Spot, set[tuple[str, frozenset[int]]]] = field(
        default_factory=lambda: defaultdict(set)
    )
    stretches: set[tuple[str, _Spot, _Spot]] = field(default_factory=set)
    doors: dict[Point, str] = field(default_factory=dict)  # "" has one that enters
    blocked: dict[tuple[_Spot, _Spot], bool] = field(default_factory=dict)
    touching: int = 0

    def at(self, spot: _Spot) -> Point:
        return self.xs[spot[0]], self.ys[spot[1]]

    def after(self, spot: _Spot, heading: int) -> _Spot | None:
        """Return the next spot, or ``None`` at the end of the line or in front of a box."""
        dx, dy = _HEADINGS[heading]
        new = spot[0] + dx, spot[1] + dy
        if not (0 <= new[0] < len(self.xs) and 0 <= new[1] < len(self.ys)):
            return None
        if (spot, new) not in self.blocked:
            ends = self.at(spot), self.at(new)
            is_blocked = any(box.is_crossed(*ends) for box in self.boxes.values())
            self.blocked[spot, new] = is_blocked
        return None if self.blocked[spot, new] else new

    def doors_of(self, box: Box) -> list[_Door]:
        """Return three doors on each side, of which the one in the middle is the cheapest."""
        found = []
        for share, price in ((0.5, 0.0), (0.25, _OFF_CENTRE), (0.75, _OFF_CENTRE)):
            x, y = _inside(box, share)
            i, j = self.xs.index(x), self.ys.index(y)
            left, right = bisect_left(self.xs, box.x) - 1, bisect_right(self.xs, box.right)
            above, below = bisect_left(self.ys, box.y) - 1, bisect_right(self.ys, box.bottom)
            found += [
                _Door((box.right, y), (right, j), 0, price),
                _Door((box.x, y), (left, j), 1, price),
                _Door((x, box.bottom), (i, below), 2, price),
                _Door((x, box.y), (i, above), 3, price),
            ]
        return found

    def clashes(self, spot: _Spot, axes: frozenset[int], user: str) -> tuple[int, int]:
        """Count the others that an arrow touches at a spot, and those that it crosses squarely."""
        others = [used for other, used in self.users[spot] if other != user]
        touched = sum(bool(axes & used) for used in others)
        return touched, len(others) - touched

    def is_taken(self, door: _Door, user: str) -> bool:
        """Tell whether another arrow has the door; those that leave one box may share it."""
        return self.doors.get(door.at, user) != user


def find_routes(
    boxes: Mapping[str, Box],
    arrows: Sequence[Arrow],
    xs: Sequence[float],
    ys: Sequence[float],
    alone: Collection[Arrow] = (),
) -> Routes:
    """Return a way for each arrow, the shortest first, and at last those that lead back.

    Args:
        boxes: By name. They do not touch.
        arrows: From and to.
        xs: Where vertical lines may run between the boxes: at least one on each side of every box.
        ys: Where horizontal lines may run, in the same way.
        alone: Arrows that share no line with another from the same box, as others may.
    """
    inner = [_inside(box, share) for box in boxes.values() for share in (0.25, 0.5, 0.75)]
    streets = _Streets(
        boxes, sorted({*xs, *(x for x, _ in inner)}), sorted({*ys, *(y for _, y in inner)})
    )
    ways = {}
    for arrow in sorted(arrows, key=lambda arrow: (arrow[0] == arrow[1], _apart(boxes, arrow))):
        user = repr(arrow) if arrow in alone else arrow[0]
        leave, spots, enter = _cheapest(streets, arrow, user)
        _take(streets, user, leave, spots, enter)
        ways[arrow] = _corners([leave.at, *map(streets.at, spots), enter.at])
    return Routes({arrow: ways[arrow] for arrow in arrows}, streets.touching)


def _inside(box: Box, share: float) -> Point:
    return box.x + share * box.width, box.y + share * box.height


def _apart(boxes: Mapping[str, Box], arrow: Arrow) -> float:
    (x1, y1), (x2, y2) = (boxes[name].centre for name in arrow)
    return abs(x1 - x2) + abs(y1 - y2)


_State = tuple[_Spot, int]
"""A spot, and the heading with which an arrow comes there."""


def _cheapest(streets: _Streets, arrow: Arrow, user: str) -> tuple[_Door, list[_Spot], _Door]:
    """Find the cheapest way from a door of one box to a door of another (Dijkstra 1959)."""
    leaving, entering = (streets.doors_of(streets.boxes[name]) for name in arrow)
    goals = {door.spot: door for door in entering}
    best: dict[_State, float] = {}
    came: dict[_State, _State | _Door] = {}
    queue: list[tuple[float, _State]] = []

    def reach(state: _State, cost: float, origin: _State | _Door) -> None:
        if cost < best.get(state, float("inf")):
            best[state], came[state] = cost, origin
            heapq.heappush(queue, (cost, state))

    for door in leaving:
        reach((door.spot, door.heading), _price(streets, door, streets.is_taken(door, user)), door)
    found: tuple[float, _State] = float("inf"), (entering[0].spot, 0)
    while queue and queue[0][0] < found[0]:
        cost, state = heapq.heappop(queue)
        if cost > best[state]:
            continue
        goal = goals.get(state[0])
        if goal is not None and state[1] != goal.heading:
            whole = cost + _pass(streets, state, goal.heading ^ 1, user)  # ^ 1 turns around
            found = min(found, (whole + _price(streets, goal, goal.at in streets.doors), state))
        for heading in range(4):
            new = None if heading == state[1] ^ 1 else streets.after(state[0], heading)
            if new is not None:
                step = _pass(streets, state, heading, user) + _walk(streets, state[0], new, user)
                reach((new, heading), cost + step, state)
    return _retrace(came, found[1], goals[found[1][0]])


def _retrace(
    came: Mapping[_State, _State | _Door], last: _State, enter: _Door
) -> tuple[_Door, list[_Spot], _Door]:
    spots, origin = [last[0]], came[last]
    while not isinstance(origin, _Door):
        spots.append(origin[0])
        origin = came[origin]
    return origin, spots[::-1], enter


def _price(streets: _Streets, door: _Door, is_taken: bool) -> float:
    """Return what it costs to go through a door."""
    (x1, y1), (x2, y2) = door.at, streets.at(door.spot)
    return door.price + abs(x1 - x2) + abs(y1 - y2) + (_TOUCH if is_taken else 0.0)


def _pass(streets: _Streets, state: _State, heading: int, user: str) -> float:
    """Return what it costs to go on from a spot in this direction."""
    axes = frozenset({state[1] // 2, heading // 2})
    touched, crossed = streets.clashes(state[0], axes, user)
    return _BEND * (len(axes) - 1) + _TOUCH * touched + _CROSS * crossed


def _walk(streets: _Streets, spot: _Spot, new: _Spot, user: str) -> float:
    """Return what the stretch between two spots costs."""
    (x1, y1), (x2, y2) = streets.at(spot), streets.at(new)
    shared = (user, spot, new) in streets.stretches
    return (abs(x1 - x2) + abs(y1 - y2)) * (_TRUNK if shared else 1.0)


def _take(streets: _Streets, user: str, leave: _Door, spots: Sequence[_Spot], enter: _Door) -> None:
    """Remember where an arrow runs."""
    streets.touching += streets.is_taken(leave, user) + (enter.at in streets.doors)
    streets.doors[leave.at], streets.doors[enter.at] = user, ""
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(spots)]
    headings = [leave.heading, *map(_HEADINGS.index, steps), enter.heading ^ 1]
    for spot, (before, after) in zip(spots, pairwise(headings), strict=True):
        axes = frozenset({before // 2, after // 2})
        streets.touching += streets.clashes(spot, axes, user)[0]
        streets.users[spot].add((user, axes))
    streets.stretches |= {(user, a, b) for a, b in pairwise(spots)}


def _corners(way: Sequence[Point]) -> list[Point]:
    """Leave out the points on a straight line."""
    kept = [way[0]]
    for before, point, after in zip(way, way[1:], way[2:], strict=False):
        if not (before[0] == point[0] == after[0] or before[1] == point[1] == after[1]):
            kept.append(point)
    return [*kept, way[-1]]
