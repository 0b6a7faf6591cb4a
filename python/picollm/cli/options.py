"""Numbers as people write them: `1e19`, `10B`, `2G`, `30min`, `500steps`, `20usd` (decision 26)."""

import re

import click

COUNT_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
BYTE_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
SECONDS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}
# Options that say which corpus is meant and how its documents are taken out.
OF_THE_CORPUS = (
    "dataset_config", "dataset_split", "revision", "text_column", "doc_sep", "bad_utf8", "on_bad_file",
)  # fmt: skip
NUMBER = re.compile(r"([0-9][0-9_,]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)")


def split_unit(text: str) -> tuple[float, str]:
    """`"1.5B"` → (1.5, "B"). Raises ValueError on anything that is not a number and an optional word."""
    match = NUMBER.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a number")
    return float(match[1].replace(",", "").replace("_", "")), match[2]


class Scaled(click.ParamType[int]):
    """A whole number with a unit letter."""

    def __init__(self, name: str, units: dict[str, int]) -> None:
        self.name = name
        self.units = units

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            number, unit = split_unit(str(value))
            return round(number * self.units[unit.upper()])
        except (ValueError, KeyError):
            letters = ", ".join(unit for unit in self.units if unit)
            self.fail(f"{value!r} is not a number such as 100, 1e6 or 10{letters[0]} (letters: {letters})", param, ctx)


COUNT = Scaled("count", COUNT_UNITS)
BYTES = Scaled("bytes", BYTE_UNITS)


class CountOrAll(click.ParamType[int | None]):
    """A count, or `all` (None)."""

    name = "count|all"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        return None if value == "all" else COUNT.convert(value, param, ctx)


COUNT_OR_ALL = CountOrAll()
