"""Rows of a tab-separated text file, as a person or a spreadsheet saves it, with the numbers of their lines."""

from __future__ import annotations

import codecs
import csv
import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from histomake.base.errors import ConfigError

LINE_END = re.compile(r"\r\n|\n|\r")
SPREADSHEET_ERROR = re.compile(
    r"#(N/A|REF!|VALUE!|DIV/0!|NAME\?|NUM!|NULL!|SPILL!|CALC!|GETTING_DATA)|Err:[0-9]+", re.IGNORECASE
)
"""What spreadsheets write into cells whose formula failed."""

OTHER_SEPARATORS = {";": "semicolons", ",": "commas", "|": "bars"}


@dataclass(frozen=True)
class SheetRow:
    """One row: the number of its line in the file, and its cells by column, without spaces around them."""

    line: int
    cells: dict[str, str]


@dataclass(frozen=True)
class SheetRows:
    """The rows of a sheet.

    header: names of the columns; columns without a name and without content are left out.
    problems: lines that cannot be read; their rows are left out.
    """

    header: list[str]
    rows: list[SheetRow]
    problems: list[str]


def read_rows(path: Path | str) -> SheetRows:
    """Read a sheet: UTF-8, or the Unicode text of a spreadsheet (UTF-16), with line ends of any system.

    Empty lines, lines of tabs, and comments, which start with ``#``, are left out. Raises ConfigError if the file does
    not exist or is not text.
    """
    header: list[str] = []
    lines: list[tuple[int, list[str]]] = []
    problems: list[str] = []
    for number, line in enumerate(LINE_END.split(_text(path)), start=1):
        if not line.strip() or _is_comment(line):
            continue
        try:
            (cells,) = csv.reader([line], delimiter="\t", strict=True)
        except (csv.Error, ValueError) as error:
            problems.append(f"line {number}: {error}; a quote or a line break inside a cell is not closed")
            continue
        cells = [cell.strip() for cell in cells]
        if not any(cells) or _is_comment(cells[0]):
            continue
        if header:
            lines.append((number, cells))
        else:
            header = cells
            problems += _separator_problems(number, line)
    found = [_row(number, cells, header) for number, cells in lines]
    problems += [problem for _, faults in found for problem in faults]
    return SheetRows(list(filter(None, header)), [row for row, faults in found if not faults], problems)


def _text(path: Path | str) -> str:
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"slide sheet {path} does not exist; set its path as `sheet:` in config.yaml") from None
    except IsADirectoryError:
        raise ConfigError(
            f"slide sheet {path} is a folder; set the path of a file as `sheet:` in config.yaml"
        ) from None
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"slide sheet {path} is not UTF-8 text ({error.reason} in line {line}); save it as tab-separated text with "
            "the encoding UTF-8 or Unicode"
        ) from None


def _is_comment(text: str) -> bool:
    """Whether a line or a first cell is a comment, and not a spreadsheet's error."""
    return text.startswith("#") and not SPREADSHEET_ERROR.match(text)


def _separator_problems(number: int, line: str) -> list[str]:
    marks = [] if "\t" in line else [name for mark, name in OTHER_SEPARATORS.items() if mark in line]
    return [f"line {number}: columns are separated by {name}; save the sheet as tab-separated text" for name in marks]


def _row(number: int, cells: list[str], header: list[str]) -> tuple[SheetRow, list[str]]:
    """The row of a line, and its problems: content that belongs to no column."""
    if len(cells) <= len(header) and all(header):
        return SheetRow(number, dict(zip_longest(header, cells, fillvalue=""))), []
    places = [*header, *[""] * (len(cells) - len(header))]
    pairs = list(zip(places, cells, strict=False))
    stray = [(place, cell) for place, (name, cell) in enumerate(pairs, start=1) if cell and not name]
    problems = [f"line {number}: column {place} has content ({cell!r}), but no name" for place, cell in stray]
    named = {name: cell for name, cell in pairs if name}
    return SheetRow(number, dict.fromkeys(filter(None, header), "") | named), problems
