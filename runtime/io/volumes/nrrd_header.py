"""The header of an NRRD file: lines of fields, of which some have one word or vector for each axis."""

from __future__ import annotations

import re
from pathlib import Path

from runtime.files.plain_file import open_plain
from runtime.io.volumes.header_text import HeaderLines, integers, reals
from runtime.io.volumes.units import unit_of

# Fields without their blanks, since line skip and lineskip are one field; the first are read here.
_FIELDS = (
    *("type", "dimension", "sizes", "encoding", "endian", "datafile", "lineskip", "byteskip"),
    *("space", "spacedimension", "spacedirections", "spaceorigin", "spacings", "axismins"),
    *("axismaxs", "centers", "centerings", "kinds", "content", "number", "blocksize", "min"),
    *("max", "oldmin", "oldmax", "labels", "units", "thicknesses", "sampleunits", "spaceunits"),
    *("measurementframe",),
)
MAX_AXES = 16  # as in teem
_QUOTED = re.compile(r'"([^"]*)"|([^\s",]+)')


class NrrdHeader:
    """The lines of a header: fields by name, the names of a LIST, and the byte behind them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fields: dict[str, str] = {}
        self.names: list[str] = []
        with open_plain(path) as stream:
            lines = HeaderLines(stream)
            magic = lines.next() or ""
            if not re.fullmatch(r"NRRD000[1-6]", magic):
                raise ValueError(f"it begins with {magic[:20]!r}; wanted NRRD0001 to NRRD0006")
            while line := lines.next():
                self._add(line)
                if line.lower().startswith("data") and self._is_list():
                    self.names = lines.rest()
            self.end = stream.tell()
            if line is None and "datafile" not in self.fields:
                raise ValueError("it ends without an empty line and without data")

    def _add(self, line: str) -> None:
        name, _, value = line.partition(": ")
        if line.startswith("#") or ":=" in name:
            return
        name = name.lower().replace(" ", "")
        if name not in _FIELDS:
            raise ValueError(f"found the line {line[:80]!r}, which is no field of NRRD")
        if name in self.fields:
            raise ValueError(f"found {name} twice")
        self.fields[name] = value.strip()

    def _is_list(self) -> bool:
        return self.fields.get("datafile", "").split()[:1] == ["LIST"]

    def need(self, name: str) -> str:
        """The value of a field that has to be there."""
        if not self.fields.get(name):
            raise ValueError(f"it says nothing about its {name}")
        return self.fields[name]

    @property
    def sizes(self) -> list[int]:
        """The length of each axis, the fastest first."""
        sizes = integers(self.need("sizes"))
        (dimension,) = integers(self.need("dimension"))
        if len(sizes) != dimension or not 1 <= dimension <= MAX_AXES or min(sizes) < 1:
            raise ValueError(
                f"found dimension {dimension} and sizes {sizes[:MAX_AXES]}; wanted one positive "
                "length for each axis"
            )
        return sizes

    def axes(self, name: str) -> list[str]:
        """One word for each axis; none when the field is not there."""
        words = self.fields.get(name, "").lower().split()
        if words and len(words) != len(self.sizes):
            raise ValueError(
                f"found {len(words)} {name}; wanted one for each of {len(self.sizes)} axes"
            )
        return words

    def unit(self, domain: list[int]) -> str:
        """The one unit of length of the world, or of the axes of space, a key of `UNITS_MM`; mm where none is said."""
        is_world = "spacedirections" in self.fields
        name = "spaceunits" if is_world else "units"
        words = [a or b for a, b in _QUOTED.findall(self.fields.get(name, "").lower())]
        if not is_world and words and len(words) != len(self.sizes):
            raise ValueError(
                f"found {len(words)} units; wanted one for each of {len(self.sizes)} axes"
            )
        own = words[:3] if is_world or not words else [words[axis] for axis in domain[:3]]
        found = {*map(unit_of, own)}
        if len(found) > 1 or None in found:
            raise ValueError(
                f"found the {'space ' * is_world}units {self.fields[name][:80]!r}; wanted one of mm, cm, m, um or nm "
                "on all axes; correct them, or take them out if it is in mm"
            )
        return (found.pop() if found else None) or "mm"

    @property
    def directions(self) -> list[list[float] | None]:
        """The world vector of each axis, None for an axis that is no direction in space."""
        text = self.fields.get("spacedirections", "").lower()
        words = re.findall(r"none|\([^()]*\)", text)
        if re.sub(r"none|\([^()]*\)|\s", "", text) or len(words) != len(self.sizes):
            raise ValueError(f"found space directions {text[:200]!r}; wanted one for each axis")
        return [None if word == "none" else vector(word) for word in words]


def vector(text: str) -> list[float]:
    """The numbers of "(a, b, c)". Raises ValueError."""
    if not re.fullmatch(r"\([^()]*\)", text):
        raise ValueError(f"found {text[:80]!r}; wanted a vector such as (0,0,1)")
    values = []
    for word in text[1:-1].split(","):
        if len(numbers := reals(word)) != 1:
            raise ValueError(f"found {word[:80]!r} in a vector; wanted one number")
        values += numbers
    return values
