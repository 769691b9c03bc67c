"""Prompts from tables, in the order of studies, whatever the order of rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.cohort.study import StudyPrompts, calls_of_rows, codes_of_rows
from runtime.cohort.table import read_table
from runtime.errors import InputError, MissingInput, PromptError
from runtime.io.dicom.codes import Code
from runtime.prompts.prompts import Box, Point
from runtime.prompts.recist import Recist


def table(folder: Path, text: str) -> dict[str, str]:
    """Rows of prompts by study, from CSV."""
    path = folder / "t.csv"
    path.write_text(text)
    return {study.name: study.asked.text for study in read_table(path, folder)}


def test_prompts_of_a_study_come_together(tmp_path: Path) -> None:
    found = table(
        tmp_path,
        "Study,object,z,box,point,recist,remark\n"
        'b,,7,"2,5,1,4",,,first\n'
        'a,3,,,"4,9,9",,\n'
        'b,,,,,"6,1,1,3,3",\n'
        'a,3,5,,"1,1,-;2,2",,\n',
    )
    assert list(found) == ["a", "b"]
    calls, lines = calls_of_rows(found["a"])
    assert calls == [
        (3, [Point(slice=4, y=9, x=9)]),
        (3, [Point(slice=5, y=1, x=1, positive=False), Point(slice=5, y=2, x=2)]),
    ]
    assert lines == ()
    calls, lines = calls_of_rows(found["b"])
    assert calls == [(1, [Box(slice=7, y=(2, 5), x=(1, 4))])]
    assert lines == ((2, Recist(6, (1, 1), (3, 3))),)


def test_numbers_may_have_columns_of_their_own(tmp_path: Path) -> None:
    found = table(tmp_path, "study,z,y0,y1,x0,x1\nA,3,0,5.5,1,4\n")
    assert calls_of_rows(found["A"])[0] == [(1, [Box(slice=3, y=(0, 5.5), x=(1, 4))])]


def test_cells_are_read_that_excel_and_pandas_have_changed(tmp_path: Path) -> None:
    """Empty ones behind the last column, and whole numbers beside missing ones."""
    found = table(tmp_path, 'study,object,box\nA,7.0,"2,0,5,1,4",,\nA,,"3,0,5,1,4"\n')
    boxes = [Box(slice=z, y=(0, 5), x=(1, 4)) for z in (2, 3)]
    assert calls_of_rows(found["A"])[0] == [(7, [boxes[0]]), (1, [boxes[1]])]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_come_with_a_mark_of_their_encoding_and_without(
    tmp_path: Path, encoding: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text('study,box\r\nMüller,"7,2,5,1,4"\r\n', encoding)
    assert [study.name for study in read_table(path, tmp_path)] == ["Müller"]


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        ('study,box\nA,"7,2,5,1,4"\n', "utf-16", "text in UTF-16.*in Excel as CSV UTF-8"),
        ('study,box\nMüller,"7,2,5,1,4"\n', "cp1252", "save it as that, in Excel as CSV UTF-8"),
        ("study;box\nA;7,2,5,1,4\n", "utf-8", "with commas between the columns"),
        ("study\tbox\nA\t7,2,5,1,4\n", "utf-8", "with commas between the columns"),
    ],
    ids=["utf-16", "cp1252", "semicolons", "tabs"],
)
def test_other_tables_are_refused_with_how_to_mend_them(
    tmp_path: Path, text: str, encoding: str, said: str
) -> None:
    """Excel writes each of these."""
    path = tmp_path / "t.csv"
    path.write_text(text, encoding)
    with pytest.raises(InputError, match=said):
        [*read_table(path, tmp_path)]


@pytest.mark.parametrize(
    ("first", "between"),
    [("sep=;", ";"), ("SEP=;", ";"), ("sep=,", ","), ("sep=\t", "\t"), ("sep=|", "|"), ("", ",")],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_first_line_says_what_stands_between_columns_as_in_excel(
    tmp_path: Path, first: str, between: str, end: str, encoding: str
) -> None:
    """And empty lines before the columns' names, with separators as Excel writes them or without, are none."""
    rows = [["Study", "z", "y0", "y1", "x0", "x1"], ["Müller", "3", "0", "5.5", "1", "4"]]
    lines = ["", between * 5, *map(between.join, rows)]
    path = tmp_path / "t.csv"
    with path.open("w", encoding=encoding, newline="") as stream:
        stream.write(end.join([first, *lines] if first else lines) + end)
    (study,) = read_table(path, tmp_path)
    assert study.name == "Müller"
    assert calls_of_rows(study.asked.text)[0] == [(1, [Box(slice=3, y=(0, 5.5), x=(1, 4))])]


@pytest.mark.parametrize("first", ["sep=:", "sep=", "sep=0"])
def test_other_first_lines_are_refused(tmp_path: Path, first: str) -> None:
    with pytest.raises(
        InputError, match=r"begins with .sep=.*a semicolon, a tab, a bar behind sep="
    ):
        table(tmp_path, f'{first}\nstudy,box\nA,"7,2,5,1,4"\n')


@pytest.mark.parametrize("before", ["\n", "study;box\n", "sep=;\n"])
def test_what_stands_between_columns_is_said_in_the_first_line_alone(
    tmp_path: Path, before: str
) -> None:
    with pytest.raises(InputError, match="has the columns"):
        table(tmp_path, f"{before}sep=;\nstudy;box\nA;7,2,5,1,4\n")


def test_lines_are_counted_from_the_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 5: more cells than columns"):
        table(tmp_path, "sep=;\n\nstudy;box\nA;7,2,5,1,4\nA;7,2,5,1,4;5\n")


@pytest.mark.parametrize("name", ["z", "y0"])
def test_decimal_commas_do_not_become_other_numbers(tmp_path: Path, name: str) -> None:
    """Of a cell `10,5` in the column y0 of a table without z, 10 would be the slice."""
    cells = {"study": "A", "z": "", "y0": "2", "y1": "20", "x0": "5", "x1": "9", name: "10,5"}
    found = table(tmp_path, f"sep=;\n{';'.join(cells)}\n{';'.join(cells.values())}\n")
    with pytest.raises(PromptError, match=f"{name} 10,5; wanted one number"):
        calls_of_rows(found["A"])


def test_a_study_may_be_called_in_several_ways(tmp_path: Path) -> None:
    for name in ("ct.nii.gz", "mr.nii.gz", "mr.nrrd"):
        (tmp_path / name).touch()
    names = ("ct", "ct.nii.gz", "./ct", "mr.nrrd", "mr.nii.gz")
    rows = "".join(f'{name},{z},"0,2,0,2"\n' for z, name in enumerate(names))
    found = table(tmp_path, f"study,z,box\n{rows}")
    assert {
        name: [c[1][0].slice for c in calls_of_rows(text)[0]] for name, text in found.items()
    } == {
        "ct": [0, 1, 2],
        "mr.nii.gz": [4],
        "mr.nrrd": [3],
    }


def test_rows_that_hold_nothing_are_left_alone(tmp_path: Path) -> None:
    assert list(table(tmp_path, 'study,box,\na,"1,0,2,0,2",\n,,\n')) == ["a"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ('s,1,3,"1,2,1,2","1,1",', "box and point"),
        ("s,1,3,,,", "none of box"),
        ('s,one,3,"1,2,1,2",,', "no whole number"),
        ('s,70000,3,"1,2,1,2",,', "65535"),
        ('s,1,3,"1,2",,', "wanted z,y0,y1,x0,x1"),
        ('s,1,2.5,"1,2,1,2",,', "not a whole number"),
    ],
)
def test_a_bad_row_fails_its_study_alone(row: str, why: str, tmp_path: Path) -> None:
    found = table(tmp_path, f'study,object,z,box,point,recist\n{row}\nt,1,3,"1,2,1,2",,\n')
    assert calls_of_rows(found["t"])[0]
    with pytest.raises(PromptError, match=why):
        calls_of_rows(found["s"])


def test_a_recist_line_stands_alone(tmp_path: Path) -> None:
    rows = 's,1,3,,"1,1",\ns,1,3,,,"1,1,2,2"\n'
    with pytest.raises(PromptError, match="RECIST line and another"):
        calls_of_rows(table(tmp_path, f"study,object,z,box,point,recist\n{rows}")["s"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("study,remark\na,b\n", "wanted study, and box"),
        ("box\n1\n", "wanted study"),
        ("", "none"),
        ('study,box\n,"1,1,2,1,2"\n', "without a study"),
        ("study,box\na,b,c\n", "line 2"),
        ("study,box,Box\na,b,c\n", "more than one column box"),
        ('study,box\n"a,b\n', "CSV"),
        ("study,box\n../a,1\n", "path below"),
    ],
)
def test_what_is_no_table_of_prompts_is_refused(text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=why):
        table(tmp_path, text)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        list(read_table(tmp_path / "t.csv", tmp_path))
    (tmp_path / "t.xlsx").touch()
    with pytest.raises(InputError, match=r"\.csv or \.parquet; .* in Excel as CSV UTF-8"):
        list(read_table(tmp_path / "t.xlsx", tmp_path))


def test_parquet_says_the_same(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = {
        "study": ["a", "a"],
        "object": [2, None],
        "z": [7, 8],
        "box": [[2, 5, 1, 4.5], [0, 1, 0, 1]],
    }
    parquet.write_table(pyarrow.table(rows), tmp_path / "t.parquet")
    (study,) = read_table(tmp_path / "t.parquet", tmp_path)
    assert calls_of_rows(study.asked.text)[0] == [
        (2, [Box(slice=7, y=(2, 5), x=(1, 4.5))]),
        (1, [Box(slice=8, y=(0, 1), x=(0, 1))]),
    ]
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(InputError, match="Parquet"):
        list(read_table(tmp_path / "t.parquet", tmp_path))


LIVER, LUNG = Code("SCT", "10200004", "Liver"), Code("SCT", "39607008", "Lung")


def test_rows_say_what_objects_are(tmp_path: Path) -> None:
    found = table(
        tmp_path,
        "study,object,z,box,point,code,category\n"
        f'a,7,3,"1,2,1,2",,{LIVER},SCT:91723000:Anatomical Structure\n'
        f'a,7,4,,"1,1;2,2",{LIVER},\n'
        'a,9,3,"1,2,1,2",,,\n'
        'b,,3,"1,2,1,2",,,\n'
        f'b,,3,"1,2,1,2",,{LUNG},\n'
        f'c,1,3,"1,2,1,2",,{LUNG},\nc,1,4,"1,2,1,2",,{LIVER},\n'
        'd,1,3,"1,2,1,2",,lung,\n',
    )
    assert codes_of_rows(found["a"]) == (
        {7: LIVER},
        {7: Code("SCT", "91723000", "Anatomical Structure")},
    )
    assert codes_of_rows(found["b"]) == ({2: LUNG}, {})
    assert [object_id for object_id, _ in calls_of_rows(found["b"])[0]] == [1, 2]
    assert len(calls_of_rows(found["a"])[0]) == 3
    with pytest.raises(PromptError, match=r"object 1 has the code .*Lung and .*Liver; wanted one"):
        codes_of_rows(found["c"])
    with pytest.raises(PromptError, match="object 1: found the code 'lung'"):
        codes_of_rows(found["d"])


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("[[", "k["), ("box", "bnx"), (",0,", '","0,'), ('["1"', "[1"), ('"0,', '{"0,')],
)
def test_rows_with_flipped_bits_are_refused(right: str, wrong: str) -> None:
    text = StudyPrompts.of_rows([("1", "box", "0,0,5,1,4")]).text
    assert calls_of_rows(text)[0]
    assert text.replace(right, wrong) != text
    with pytest.raises(PromptError, match="damaged in the cohort's ledger; give the command again"):
        calls_of_rows(text.replace(right, wrong, 1))
