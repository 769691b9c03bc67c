"""What predictors are told to do, or what the model's bundle has them do where nobody says."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from runtime.bundle.defaults import Defaults
from runtime.errors import InputError
from runtime.memory import MemoryRules
from runtime.model import Model
from runtime.predictors.result import check_smooth
from runtime.predictors.stop import StopRule
from runtime.predictors.zoom import check_zoom
from runtime.prompts.prompts import shown

Auto = Literal["auto"]
AUTO: Auto = "auto"
"""What the bundle's defaults say."""


def memory_rules(model: Model, asked: MemoryRules | Auto | None) -> MemoryRules:
    """Rules of memory: those asked for, the bundle's own for "auto", SAM 2's for None.

    Raises InputError for anything else, and if they do not fit the model.
    """
    if isinstance(asked, str) and asked == AUTO:
        rules = replace(MemoryRules(), **model.defaults.memory)
    elif asked is None or isinstance(asked, MemoryRules):
        rules = asked or MemoryRules()
    else:
        raise InputError(
            f"memory is {shown(asked)}; wanted MemoryRules, such as MemoryRules(policy='confidence'), or None"
        )
    rules.limits(model.numbers)
    return rules


def stop_rule(model: Model, asked: StopRule | Auto | None) -> StopRule | None:
    """When to stop: as asked for, as the bundle has it for "auto", never for None.

    Raises InputError for anything else.
    """
    if isinstance(asked, str) and asked == AUTO:
        return stop_of(model.defaults)
    return check_stop(asked)


def check_stop(asked: object) -> StopRule | None:
    """What is asked for, if it is a rule or None. Raises InputError for anything else."""
    if asked is not None and not isinstance(asked, StopRule):
        raise InputError(
            f"stop is {shown(asked)}; wanted a StopRule, such as StopRule(below=0.5), or None"
        )
    return asked


def zoom_factor(model: Model, asked: float | Auto | None) -> float | None:
    """Side of crops in extents of the object: as asked for, as the bundle has it for "auto"; None is whole slices.

    Raises InputError for any other than a finite number from 1.
    """
    return check_zoom(model.defaults.zoom if asked == AUTO else asked)


def smoothing(model: Model, asked: float | Auto | None) -> float:
    """Sigma of the Gaussian over logits: as asked for, as the bundle has it for "auto"; None is 0, which is none.

    Raises InputError for any other than 0 to 8.
    """
    return check_smooth(model.defaults.smooth if asked == AUTO else asked)


def stop_of(defaults: Defaults) -> StopRule | None:
    """The rule of a bundle's defaults, if they have one."""
    stop = defaults.stop
    return None if stop is None else StopRule(below=stop["below"], after=int(stop["after"]))
