"""Coded concepts: what a segment is, in the words of a terminology (PS3.3 section 8, PS3.16)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from runtime.errors import InputError

# How long a Short String and a Long String may be, PS3.5 table 6.2-1.
_SHORT, _LONG = 16, 64


@dataclass(frozen=True, slots=True)
class Code:
    """One concept of a coding scheme.

    Attributes:
        scheme: its designator: SCT for SNOMED CT, DCM for DICOM's own (PS3.16 chapter 8).
        value: the code.
        meaning: in words.

    Raises InputError for a part that is empty, too long for DICOM, or holds a backslash or a control character.
    """

    scheme: str
    value: str
    meaning: str

    def __post_init__(self) -> None:
        for part, most in ((self.scheme, _SHORT), (self.value, _SHORT), (self.meaning, _LONG)):
            if not (part.strip() and len(part) <= most and part.isprintable() and "\\" not in part):
                raise InputError(
                    f"found {part!r} in the code {self}; wanted a scheme and a value of 1 to {_SHORT} letters and a "
                    f"meaning of 1 to {_LONG}, without backslashes, such as SCT:52988006:Lesion"
                )

    def __str__(self) -> str:
        return f"{self.scheme}:{self.value}:{self.meaning}"

    @classmethod
    def parse(cls, text: str) -> Code:
        """From SCHEME:VALUE:MEANING. Raises InputError."""
        parts = [part.strip() for part in text.split(":", 2)]
        if len(parts) != 3:
            raise InputError(
                f"found the code {text!r}; wanted SCHEME:VALUE:MEANING, such as {LESION}"
            )
        return cls(*parts)


def parse_codes(texts: Iterable[str], default: Code) -> tuple[Code, dict[int, Code]]:
    """What all objects are, and what single ones are, from SCHEME:VALUE:MEANING and OBJECT=SCHEME:VALUE:MEANING.

    Raises InputError for what is neither, and where something is said twice.
    """
    of_all, of_one = [], {}
    for text in texts:
        number, is_one, rest = text.partition("=")
        if not (is_one and number.strip().isdecimal()):
            of_all.append(Code.parse(text))
            continue
        object_id = int(number)
        if object_id in of_one:
            raise InputError(f"found two codes of object {object_id}; wanted one")
        of_one[object_id] = Code.parse(rest)
    if len(of_all) > 1:
        raise InputError(
            f"found the codes {', '.join(map(str, of_all))} of all objects; wanted one, or OBJECT=SCHEME:VALUE:MEANING"
        )
    return (of_all or [default])[0], of_one


# Of a segment of which nobody has said what it is. PS3.16 CID 7159, Lesion Segmentation Types (part of CID 7151,
# Segmentation Property Types), and CID 7150, Segmentation Property Categories.
LESION = Code("SCT", "52988006", "Lesion")
ABNORMAL = Code("SCT", "49755003", "Morphologically Abnormal Structure")
