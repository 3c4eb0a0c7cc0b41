"""Prints the flag table of a real engine's command line, read from its wheel without importing it.

    pip download --no-deps sglang && python read_flags.py sglang sglang-*.whl > sglang.json
    pip download --no-deps vllm   && python read_flags.py vllm   vllm-*.whl   > vllm.json

Both engines declare their flags as annotated fields of configuration classes, so the classes' syntax trees hold every name, type and
list of choices. Importing them would need torch and a GPU's libraries; reading them needs neither.
"""

from __future__ import annotations

import ast
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Flag = dict[str, Any]
SIMPLE = {"str": "str", "int": "int", "float": "float", "bool": "bool", "dict": "json", "Path": "str"}


class Wheel:
    """The Python sources of a wheel, parsed on demand."""

    def __init__(self, path: Path) -> None:
        self.archive = zipfile.ZipFile(path)
        self.version = path.name.split("-")[1]

    def trees(self, prefix: str) -> Iterator[ast.Module]:
        """The syntax trees of every module below `prefix`."""
        for name in sorted(self.archive.namelist()):
            if name.startswith(prefix) and name.endswith(".py"):
                yield ast.parse(self.archive.read(name))


def constants(trees: Iterator[ast.Module]) -> dict[str, Any]:
    """Module-level names bound to literal lists, and to `Literal[...]` types."""
    found: dict[str, Any] = {}
    for tree in trees:
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name, value = node.targets[0].id, node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                name, value = node.target.id, node.value
            else:
                continue
            if isinstance(value, ast.Subscript):
                found.setdefault(name, value)
            elif isinstance(value, (ast.List, ast.Tuple)):
                found.setdefault(name, literal(value, {}))
    return found


def literal(node: ast.expr | None, known: dict[str, Any]) -> Any:
    """The value of a literal expression or of a known constant; None for anything computed."""
    if isinstance(node, ast.Name):
        value = known.get(node.id)
        return value if isinstance(value, list) else None
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [literal(one, known) for one in node.elts]
        return None if None in items else items
    return node.value if isinstance(node, ast.Constant) else None


def kind(note: ast.expr, known: dict[str, Any]) -> Flag:
    """{"kind": ..., "choices": ...} of a type annotation; several members of a union are tried from the strictest on."""
    if isinstance(note, ast.Constant) and isinstance(note.value, str):
        return kind(ast.parse(note.value, mode="eval").body, known)
    if isinstance(note, ast.BinOp):
        return strictest([kind(note.left, known), kind(note.right, known)])
    if isinstance(note, ast.Constant):
        return {"kind": "none"}
    if isinstance(note, ast.Name):
        alias = known.get(note.id)
        return (
            kind(alias, known)
            if isinstance(alias, ast.expr)
            else {"kind": SIMPLE.get(note.id) or ("json" if note.id.endswith(("Config", "Params")) else "str")}
        )
    if isinstance(note, ast.Subscript):
        return subscript(ast.unparse(note.value).split(".")[-1], note.slice, known)
    return {"kind": "str"}


def subscript(outer: str, inside: ast.expr, known: dict[str, Any]) -> Flag:
    """The kind of `outer[inside]`."""
    members = inside.elts if isinstance(inside, ast.Tuple) else [inside]
    if outer == "Literal":
        values = [one.value for one in members if isinstance(one, ast.Constant) and one.value is not None]
        return {"kind": type(values[0]).__name__, "choices": values}
    if outer in ("Optional", "Union", "SkipValidation", "Annotated", "A"):
        return strictest([kind(one, known) for one in (members if outer == "Union" else members[:1])])
    if outer in ("list", "List", "tuple", "Tuple", "set", "Sequence"):
        inner = kind(members[0], known)
        return {"kind": inner["kind"] if inner["kind"] != "json" else "str", "many": True}
    return {"kind": "json" if outer in ("dict", "Dict", "Mapping") else "str"}


def strictest(members: list[Flag]) -> Flag:
    """What a union accepts on a command line: free text if any member is text, else its first real member."""
    real = [one for one in members if one["kind"] != "none"]
    for one in real:
        if one["kind"] == "bool" and len({m["kind"] for m in real}) > 1:
            return {"kind": "str", "optional": True}
    texts = [one for one in real if one["kind"] == "str" and "choices" not in one and not one.get("many")]
    return (texts or real or [{"kind": "str"}])[0]


def annotated(tree: ast.AST) -> Iterator[tuple[str, str, ast.expr]]:
    """(class, field, annotation) of every annotated field in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for one in node.body:
                if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
                    yield node.name, one.target.id, one.annotation


def keywords(call: ast.expr) -> dict[str, ast.expr]:
    """The named arguments of a call; those of another expression are none."""
    return {k.arg: k.value for k in call.keywords if k.arg} if isinstance(call, ast.Call) else {}


def explicit(tree: ast.AST, known: dict[str, Any]) -> Iterator[tuple[list[str], Flag, ast.Call]]:
    """(names, flag, call) of every `add_argument("--x", ...)` in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            names = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            if not names or not names[0].startswith("-"):
                continue
            given = keywords(node)
            action = ast.unparse(given["action"]) if "action" in given else ""
            flag: Flag = {"kind": SIMPLE.get(ast.unparse(given["type"]), "str") if "type" in given else "str"}
            if "BooleanOptional" in action:
                flag = {"kind": "bool", "toggle": True}
            elif "true" in action.lower() or "const" in action.lower():
                flag = {"kind": "bool"}
            if choices := literal(given.get("choices"), known):
                flag["choices"] = choices
            yield names, flag, node


def sglang(wheel: Wheel) -> dict[str, Flag]:
    """Flag -> what it takes, for `sglang serve` / `python -m sglang.launch_server`."""
    groups = "sglang/srt/arg_groups/"
    known = constants(wheel.trees(groups))
    table: dict[str, Flag] = {}
    for tree in wheel.trees(groups + "fields/"):
        for _, field, note in annotated(tree):
            if isinstance(note, ast.Subscript) and ast.unparse(note.value) == "A" and isinstance(note.slice, ast.Tuple):
                table.update(declared(field, note.slice.elts, known))
    for tree in wheel.trees("sglang/srt/server_args.py"):
        for names, flag, _ in explicit(tree, known):
            table.update(dict.fromkeys(names, flag))
    return table


def declared(field: str, note: list[ast.expr], known: dict[str, Any]) -> dict[str, Flag]:
    """The flags of one of SGLang's fields `name: A[type, Arg(...)]`; {} if it has none."""
    told = next((keywords(one) for one in note[1:] if ast.unparse(one).startswith("Arg(")), {})
    if literal(told.get("no_cli"), {}):
        return {}
    flag = kind(note[0], known)
    if "action" in told:
        flag = {"kind": "bool"} if "True" in ast.unparse(told["action"]) else {**flag, "kind": "str"}
    if "type_parser" in told:
        flag = {"kind": "json" if "json" in ast.unparse(told["type_parser"]) else "str"}
    if choices := literal(told.get("choices"), known):
        flag["choices"] = choices
    if nargs := literal(told.get("nargs"), {}):
        flag["optional" if nargs == "?" else "many"] = True
    first = literal(told.get("cli_name"), {}) or "--" + field.replace("_", "-")
    return dict.fromkeys([first, *(literal(told.get("aliases"), {}) or [])], flag)


def vllm(wheel: Wheel) -> dict[str, Flag]:
    """Flag -> what it takes, for `vllm serve`."""
    known = constants(tree for prefix in ("vllm/config/", "vllm/entrypoints/") for tree in wheel.trees(prefix))
    fields: dict[str, dict[str, ast.expr]] = {}
    for prefix in ("vllm/config/", "vllm/entrypoints/", "vllm/engine/arg_utils.py"):
        for tree in wheel.trees(prefix):
            for owner, field, note in annotated(tree):
                fields.setdefault(owner, {}).setdefault(field, note)
    table: dict[str, Flag] = {}
    for tree in wheel.trees("vllm/engine/arg_utils.py"):
        owners = dict(config_variables(tree))
        for names, flag, call in explicit(tree, known):
            spread = spread_note(call, owners, fields)
            table.update(dict.fromkeys(names, toggled(spread, known) if spread else flag))
    for owner in ("BaseFrontendArgs", "FrontendArgs"):
        table.update({"--" + field.replace("_", "-"): toggled(note, known) for field, note in fields.get(owner, {}).items()})
    for tree in wheel.trees("vllm/entrypoints/common/cli_args.py"):
        for names, flag, _ in explicit(tree, known):
            table.update(dict.fromkeys(names, flag))
    return table


def spread_note(call: ast.Call, owners: dict[str, str], fields: dict[str, dict[str, ast.expr]]) -> ast.expr | None:
    """The annotation behind `**x_kwargs["field"]` or `**{**x_kwargs["field"], ...}` in a call of add_argument; None without one."""
    spread = next((k.value for k in call.keywords if k.arg is None), None)
    if isinstance(spread, ast.Dict):
        spread = next((value for key, value in zip(spread.keys, spread.values) if key is None), None)
    if isinstance(spread, ast.Subscript) and isinstance(spread.value, ast.Name) and spread.value.id in owners:
        return fields[owners[spread.value.id]][literal(spread.slice, {})]
    return None


def toggled(note: ast.expr, known: dict[str, Any]) -> Flag:
    """The kind of a vLLM field, whose booleans have a --no- form too."""
    flag = kind(note, known)
    return {"kind": "bool", "toggle": True} if flag["kind"] == "bool" else flag


def config_variables(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(variable, configuration class) of every `x_kwargs = get_kwargs(Class)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "get_kwargs":
            yield ast.unparse(node.targets[0]), ast.unparse(node.value.args[0])


def connectors(wheel: Wheel) -> list[str]:
    """The names under which vLLM's KV connectors are registered."""
    trees = wheel.trees("vllm/distributed/kv_transfer/kv_connector/factory.py")
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return sorted(literal(call.args[0], {}) for call in calls if ast.unparse(call.func).endswith(".register_connector"))


if __name__ == "__main__":
    engine, path = sys.argv[1], Path(sys.argv[2])
    opened = Wheel(path)
    flags = {"sglang": sglang, "vllm": vllm}[engine](opened)
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(flags[name], default=str)}" for name in sorted(flags))
    more = f'"connectors": {json.dumps(connectors(opened))}, ' if engine == "vllm" else ""
    print(f'{{"version": {json.dumps(opened.version)}, {more}"flags": {{\n{lines}\n}}}}')
