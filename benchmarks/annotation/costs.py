"""What an annotator's actions take, in seconds of a person: assumptions, each of which is an option."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, fields

from runtime.errors import InputError


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of a person.

    A box takes 7 s by clicking on an object's outermost points (Papadopoulos et al., Extreme clicking for efficient
    object annotation, ICCV 2017). The others are assumptions, of somebody who is quick with a pen: published times of
    polygons, such as the 79 s an object of COCO, come to more for each vertex.

    Attributes:
        box_s: to find an object's middle slice, and to draw a box there.
        click_s: to go to the slice that is wrong, and to click.
        undo_s: to see that an answer is worse, and to take it back.
        look_s: to look at one slice of a mask; all slices are looked at after each answer.
        slice_s: by hand, to go to a slice and to see where the object ends.
        vertex_s: by hand, for each vertex of a polygon.
    """

    box_s: float = 7.0
    click_s: float = 3.0
    undo_s: float = 1.0
    look_s: float = 0.5
    slice_s: float = 2.0
    vertex_s: float = 1.0

    def __post_init__(self) -> None:
        """Raise InputError for what is no time."""
        for name, value in asdict(self).items():
            if not 0 <= value < 1e6:
                option = name.removesuffix("_s")
                raise InputError(
                    f"found --{option}-seconds {value:g}; wanted seconds from 0 to a million"
                )


def add_costs(p: argparse.ArgumentParser) -> None:
    """An option for each attribute of `Costs`: --box-seconds and so on."""
    group = p.add_argument_group("what a person's actions take (seconds)").add_argument
    words = {
        "box_s": "a box",
        "click_s": "a click where the mask is wrong",
        "undo_s": "to take an answer back",
        "look_s": "to look at one slice of a mask, after each answer",
        "slice_s": "by hand, for each slice",
        "vertex_s": "by hand, for each vertex of a polygon",
    }
    for field in fields(Costs):
        group(
            f"--{field.name.removesuffix('_s')}-seconds",
            dest=field.name,
            type=float,
            default=field.default,
            metavar="S",
            help=f"{words[field.name]} (%(default)s)",
        )


def costs_of(args: argparse.Namespace) -> Costs:
    """What the options say."""
    return Costs(**{field.name: getattr(args, field.name) for field in fields(Costs)})
