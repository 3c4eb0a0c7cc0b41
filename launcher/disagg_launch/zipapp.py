"""runtime.pyz: the runtime half as one file that any Python 3.9 can run. The same sources and Python give the same bytes."""

from __future__ import annotations

import functools
import importlib.resources
import importlib.util
import io
import marshal
import zipfile

MODULES = ("__init__.py", "errors.py", "hostlist.py", "launch.py", "plan.py")
MAIN = '"""Starts the runtime half."""\nimport sys\n\nfrom disagg_launch.runtime.__main__ import main\n\nsys.exit(main())\n'
OLDEST_DATE = (1980, 1, 1, 0, 0, 0)
UNCHECKED_HASH = (1).to_bytes(4, "little")
"""PEP 552: this bytecode belongs to its source by a hash, and nobody needs to look."""


@functools.lru_cache(maxsize=1)
def bundle() -> bytes:
    """The zipapp: a first line for the kernel, then a zip of the standard-library-only modules, with fixed order and dates.

    Each module is there as source and as bytecode of this Python: where the nodes have the same one, thousands of ranks need not
    compile anything, which is a third of what they do; any other Python takes the source.
    """
    package = importlib.resources.files("disagg_launch")
    sources = {f"disagg_launch/{name}": package.joinpath(name).read_bytes() for name in MODULES}
    for one in package.joinpath("runtime").iterdir():
        if one.name.endswith((".py", ".json")):
            sources[f"disagg_launch/runtime/{one.name}"] = one.read_bytes()
    entries = {"__main__.py": MAIN.encode(), **sources, **{f"{name}c": _bytecode(name, text) for name, text in sources.items()}}
    out = io.BytesIO(b"#!/usr/bin/env python3\n")
    out.seek(0, io.SEEK_END)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(entries):
            entry = zipfile.ZipInfo(name, OLDEST_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, entries[name])
    return out.getvalue()


def _bytecode(name: str, source: bytes) -> bytes:
    """A .pyc file. marshal's version 2 has no back references, whose places depend on what else the process has in memory."""
    code = compile(source, f"runtime.pyz/{name}", "exec", dont_inherit=True)
    return importlib.util.MAGIC_NUMBER + UNCHECKED_HASH + importlib.util.source_hash(source) + marshal.dumps(code, 2)
