"""runtime.pyz: the runtime half as one file that any Python 3.9 can run. The same sources give the same bytes."""

from __future__ import annotations

import functools
import importlib.resources
import io
import zipfile

MODULES = ("__init__.py", "errors.py", "hostlist.py", "launch.py", "plan.py")
MAIN = '"""Starts the runtime half."""\nimport sys\n\nfrom disagg_launch.runtime.__main__ import main\n\nsys.exit(main())\n'
OLDEST_DATE = (1980, 1, 1, 0, 0, 0)


@functools.lru_cache(maxsize=1)
def bundle() -> bytes:
    """The zipapp: a first line for the kernel, then a zip of the standard-library-only modules, with fixed order and dates."""
    package = importlib.resources.files("disagg_launch")
    sources = {f"disagg_launch/{name}": package.joinpath(name).read_bytes() for name in MODULES}
    for one in package.joinpath("runtime").iterdir():
        if one.name.endswith(".py"):
            sources[f"disagg_launch/runtime/{one.name}"] = one.read_bytes()
    sources["__main__.py"] = MAIN.encode()
    out = io.BytesIO(b"#!/usr/bin/env python3\n")
    out.seek(0, io.SEEK_END)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(sources):
            entry = zipfile.ZipInfo(name, OLDEST_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, sources[name])
    return out.getvalue()
