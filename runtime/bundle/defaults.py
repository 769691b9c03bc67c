"""What predictors and `segment` do with a bundle unless told otherwise: measured with its own weights, or nothing.

Whether zoom, an end of following or another memory than SAM 2's helps depends on the network. So a bundle carries what
`medsam2 calibrate --defaults` has chosen for it, with the figures; one that carries nothing has all of it off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from runtime.files.strict_json import Integer, Number, Object, Rule, Text

MAX_STOP_AFTER = 1000
MAX_ZOOM = 100.0
MAX_SMOOTH = 8.0  # pixels of the network's answer

DEFAULTS_RULE: Rule = Object(
    optional={
        "memory": Object(required={"policy": Text(), "pick_up": Text()}),
        "stop": Object(required={"below": Number(0, 1), "after": Integer(1, MAX_STOP_AFTER)}),
        "zoom": Number(1, MAX_ZOOM),
        "smooth": Number(0, MAX_SMOOTH),
        "measured": Object(others=True),  # for people
    }
)
"""Of the manifest's entry `defaults`."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a bundle chooses; what it leaves out is off.

    Attributes:
        memory: `policy` and `pick_up` of `MemoryRules`; empty is SAM 2's own memory.
        stop: `below` and `after` of a `StopRule`; None never stops.
        zoom: a crop's side in extents of the object; None is the whole slice.
        smooth: sigma of the Gaussian over a mask's logits, in pixels of the network's answer; 0 is none.
        measured: on what this was chosen, and its figures.
    """

    memory: Mapping[str, Any] = field(default_factory=dict)
    stop: Mapping[str, float] | None = None
    zoom: float | None = None
    smooth: float = 0.0
    measured: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Defaults:
        """From a manifest's entry that has been checked."""
        return cls(**entry)

    def entry(self) -> dict[str, Any]:
        """For a manifest, which leaves out what is off."""
        return {name: value for name, value in asdict(self).items() if value}
