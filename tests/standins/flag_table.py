"""argparse parsers from the flag tables that read_flags.py made: unknown flags, wrong types and choices fail as with the real program."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

TABLES = Path(__file__).parents[2] / "launcher/disagg_launch/engines/tables"
KINDS = {"int": int, "float": float, "str": str, "json": json.loads}


def parser(program: str, table: str) -> argparse.ArgumentParser:
    """The parser of `program`; a destination is the first long name of its flag."""
    flags = json.loads((TABLES / table).read_text())["flags"]
    made = argparse.ArgumentParser(program, allow_abbrev=False)
    for name, flag in flags.items():
        made.add_argument(name, dest=name.strip("-").replace("-", "_"), **settings(flag))
    return made


def settings(flag: dict[str, Any]) -> dict[str, Any]:
    """add_argument's named arguments for one row of the table."""
    if flag["kind"] == "bool":
        return {"action": argparse.BooleanOptionalAction if flag.get("toggle") else "store_true", "default": None}
    made: dict[str, Any] = {"type": KINDS[flag["kind"]], "default": None}
    if flag.get("choices"):
        made["choices"] = flag["choices"]
    if flag.get("many"):
        made["nargs"] = "+"
    elif flag.get("optional"):
        made["nargs"] = "?"
    return made


def normal(words: list[str]) -> list[str]:
    """Underscores in flag names as dashes, which both engines' parsers take too."""
    return ["--" + w[2:].split("=")[0].replace("_", "-") + w[len(w.split("=")[0]) :] if w.startswith("--") else w for w in words]
