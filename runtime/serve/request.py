"""What the network is asked when a viewer's prompt comes: nnInteractive's meanings in terms of points, boxes and masks.

An object is followed across the planes of one axis: that of its latest box or lasso in a plane, or of its first
scribble. Points and later scribbles are given on those of its planes that they lie on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kernels.fill_cavities import fill_cavities
from runtime.prompts.key_slices import MAX_SLICES, key_slices
from runtime.prompts.prompts import Box, Mask, Point, Prompt
from runtime.serve.drawing import NOTHING, Drawn, extent, part_drawn
from runtime.serve.history import Interaction, Moment
from runtime.serve.planes import (
    Position,
    Span,
    Spans,
    in_plane,
    plane_shape,
    planes_of,
    position_in,
    thin_axis,
    whole_plane,
)
from runtime.serve.strokes import MAX_POINTS, Mask2, farthest_first, skeleton

NEW_SHARE = 0.1  # of a lasso that lies outside what is drawn, for it to add to that

Signed = tuple[Position, bool]
"""A voxel, and whether it is inside."""


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt as the predictor of one axis takes it.

    Attributes:
        interaction: what the viewer gave.
        axis: across whose planes the object is followed from now on.
        adds: prompts of one plane each, in their order; none where the prompt changes nothing.
        exact: planes whose mask was given, which is drawn as it is.
        z_range: as of `Moment`, from now on.
        is_fresh: everything before is forgotten first.
    """

    interaction: Interaction
    axis: int
    adds: tuple[tuple[Prompt, ...], ...]
    exact: Mapping[int, Drawn] = field(default_factory=dict)
    z_range: Span | None = None
    is_fresh: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """An object as a prompt finds it.

    Attributes:
        now: the object.
        shape: of the image.
        default_axis: of its planes, where neither object nor prompt says.
    """

    now: Moment
    shape: Position
    default_axis: int

    def axis(self, drawn_across: int | None = None) -> int:
        """Across whose planes the object is followed once a prompt has come."""
        for axis in (self.now.axis, drawn_across):
            if axis is not None:
                return axis
        return self.default_axis

    def point(self, position: Position, is_positive: bool) -> Request:
        """A click."""
        k, j, i = ((at, at + 1) for at in position)
        interaction = Interaction("point", is_positive, (k, j, i), None, (position,))
        return self._as_points(interaction, self.axis(), [(position, is_positive)])

    def box(self, spans: Spans, is_positive: bool) -> Request:
        """A box one voxel thin is one of its plane; a thicker one of its middle plane, and a range to stay within."""
        across = thin_axis(spans, self.now.axis)
        interaction = Interaction("bbox", is_positive, spans, across)
        if not is_positive:
            whole = np.ones([stop - start for start, stop in spans], bool)
            return self._takes_away(interaction, whole)
        if across is None:
            axis = self.axis()
            z_range = self._hull(spans[axis])
            return Request(interaction, axis, ((_box(spans, axis),),), z_range=z_range)
        return self._drawn_in(interaction, across, [(_box(spans, across),)])

    def scribble(self, mask: NDArray[np.bool_], spans: Spans, is_positive: bool) -> Request:
        """Points along the middle line, whatever the plane."""
        across = thin_axis(spans, self.now.axis)
        axis = self.axis(across)
        seen_across = axis if across is None else across
        ridge = np.array(
            [
                position_in(spans, seen_across, index, y, x)
                for index, plane in enumerate(planes_of(mask, seen_across))
                if plane.any()
                for y, x in skeleton(plane)
            ],
            np.intp,
        )
        count = MAX_POINTS
        if (
            axis != seen_across
        ):  # each point would be a prompt of its own plane: only what is wrong there
            drawn = part_drawn(self.now.drawn, axis, spans)
            at = ridge - [start for start, _ in spans]
            ridge, count = ridge[drawn[tuple(at.T)] != is_positive], MAX_SLICES
        chosen = farthest_first(ridge, count)
        positions = tuple((int(k), int(j), int(i)) for k, j, i in chosen)
        interaction = Interaction("scribble", is_positive, spans, across, positions)
        return self._as_points(interaction, axis, [(point, is_positive) for point in positions])

    def lasso(self, mask: NDArray[np.bool_], spans: Spans, is_positive: bool) -> Request:
        """What it encloses is the object, with what is drawn on its plane already; or is none of it.

        One that lies within what is drawn there adds nothing to it: it says that the rest is not the object.
        """
        across = thin_axis(spans, self.now.axis)
        axis = self.axis() if across is None else across
        inside = np.zeros_like(mask)
        for target, plane in zip(planes_of(inside, axis), planes_of(mask, axis), strict=True):
            target[...] = fill_cavities(plane)
        interaction = Interaction("lasso", is_positive, spans, across)
        if not is_positive:
            return self._takes_away(interaction, inside)
        y, x = (slice(*span) for i, span in enumerate(spans) if i != axis)
        masks: dict[int, Mask2] = {}
        for index in key_slices(np.count_nonzero(planes_of(inside, axis), axis=(1, 2))):
            plane = spans[axis][0] + index
            whole = np.zeros(plane_shape(self.shape, axis), bool)
            whole[y, x] = planes_of(inside, axis)[index]
            drawn = self._drawn_on(axis, plane)
            is_more = np.count_nonzero(whole & ~drawn) > NEW_SHARE * np.count_nonzero(whole)
            if is_more and (whole & drawn).any():
                whole |= drawn
                masks |= self._carried_over(axis)
            masks[plane] = whole
        exact = {index: Drawn.of(mask) for index, mask in masks.items()}
        asked = [(_mask(index, mask),) for index, mask in sorted(masks.items())]
        return self._drawn_in(interaction, axis, asked, exact)

    def seed(self, mask: NDArray[np.bool_]) -> Request:
        """The object itself, in place of all that was known of it."""
        axis = self.default_axis
        planes = planes_of(mask, axis)
        areas = np.array([np.count_nonzero(plane) for plane in planes])
        drawn = {int(index): Drawn.of(planes[index]) for index in np.flatnonzero(areas)}
        k, j, i = ((0, size) for size in self.shape)
        interaction = Interaction("seed", True, extent(drawn, axis) or (k, j, i), axis)
        adds = [(_mask(index, planes[index]),) for index in key_slices(areas)]
        return Request(interaction, axis, tuple(adds), drawn, None, True)

    def _drawn_in(
        self,
        interaction: Interaction,
        axis: int,
        adds: Sequence[tuple[Prompt, ...]],
        exact: Mapping[int, Drawn] | None = None,
    ) -> Request:
        """Prompts in planes that are the object's from now on.

        If they were not, what was prompted in others is gone, but for points that lie on these.
        """
        if self.now.axis in (axis, None):
            return Request(interaction, axis, tuple(adds), exact or {}, self._hull_of(adds))
        held = {prompt.slice for prompts in adds for prompt in prompts}
        earlier = [
            (position, other.is_positive)
            for other in self.now.interactions
            for position in other.points
            if position[axis] in held
        ]
        return Request(interaction, axis, (*adds, *_grouped(earlier, axis)), exact or {})

    def _carried_over(self, axis: int) -> dict[int, Mask2]:
        """What is drawn of an object in planes of another axis, on a few of those that it is moved to."""
        whole = extent(self.now.drawn, self.axis())
        if self.now.axis in (axis, None) or whole is None:
            return {}
        drawn = planes_of(part_drawn(self.now.drawn, self.axis(), whole), axis)
        y, x = (slice(*span) for i, span in enumerate(whole) if i != axis)
        masks = {}
        for index in key_slices(np.count_nonzero(drawn, axis=(1, 2))):
            masks[whole[axis][0] + index] = mask = np.zeros(plane_shape(self.shape, axis), bool)
            mask[y, x] = drawn[index]
        return masks

    def _drawn_on(self, axis: int, index: int) -> Mask2:
        """What is drawn on a plane of any axis."""
        part = part_drawn(self.now.drawn, self.axis(), whole_plane(self.shape, axis, index))
        drawn: Mask2 = planes_of(part, axis)[0]
        return drawn

    def _as_points(self, interaction: Interaction, axis: int, points: list[Signed]) -> Request:
        """Points on the planes of an object; what is to be taken away where nothing is drawn changes nothing."""
        adds = [
            prompts
            for prompts in _grouped(points, axis)
            if any(p.positive for p in prompts) or self._drawn(prompts[0].slice).num_pixels
        ]
        return Request(interaction, axis, tuple(adds), {}, self._hull_of(adds))

    def _takes_away(self, interaction: Interaction, marked: NDArray[np.bool_]) -> Request:
        """What is left, as masks: whoever erases knows better than a network that sees a whole object there."""
        axis, spans = self.axis(interaction.axis), interaction.spans
        region = planes_of(marked & part_drawn(self.now.drawn, axis, spans), axis)
        y, x = (slice(*span) for i, span in enumerate(spans) if i != axis)
        masks: dict[int, Mask2] = {}
        for index in key_slices([int(np.count_nonzero(plane)) for plane in region]):
            plane = spans[axis][0] + index
            masks[plane] = left = self._drawn_on(axis, plane).copy()
            left[y, x] &= ~region[index]
        exact = {index: Drawn.of(mask) for index, mask in masks.items()}
        asked = [(_mask(index, mask),) for index, mask in sorted(masks.items())]
        return Request(interaction, axis, tuple(asked), exact, self._hull_of(asked))

    def _drawn(self, index: int) -> Drawn:
        return self.now.drawn.get(index, NOTHING)

    def _hull_of(self, adds: Iterable[tuple[Prompt, ...]]) -> Span | None:
        """The object's range, as far as these prompts reach."""
        z_range = self.now.z_range
        if z_range is None:
            return None
        held = [prompts[0].slice for prompts in adds]
        return min([z_range[0], *held]), max([z_range[1], *(index + 1 for index in held)])

    def _hull(self, span: Span) -> Span:
        """A range that holds another one, what is prompted already, and the range there was."""
        held = [*span, *self.now.prompted, *(index + 1 for index in self.now.prompted)]
        held += self.now.z_range or ()
        return min(held), max(held)


def _box(spans: Spans, axis: int) -> Box:
    y, x = (span for i, span in enumerate(spans) if i != axis)
    start, stop = spans[axis]
    return Box(slice=(start + stop - 1) // 2, y=y, x=x)


def _mask(index: int, mask: Mask2) -> Mask:
    return Mask(slice=int(index), mask=np.array(mask, bool))


def _grouped(points: Iterable[Signed], axis: int) -> list[tuple[Point, ...]]:
    """Points by plane, in the order in which planes come first."""
    groups: dict[int, list[Point]] = {}
    for position, is_positive in points:
        index, y, x = in_plane(position, axis)
        groups.setdefault(index, []).append(Point(slice=index, y=y, x=x, positive=is_positive))
    return [tuple(group) for group in groups.values()]
