"""What travels: one file, the same bytes each time, Python 3.9 syntax and nothing but the standard library."""

import ast
import importlib.resources
import io
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from disagg_launch import zipapp

PACKAGE = pathlib.Path(str(importlib.resources.files("disagg_launch")))
SOURCES = sorted([*PACKAGE.glob("runtime/*.py"), *(PACKAGE / name for name in zipapp.MODULES)])
OURS = {"disagg_launch", "disagg_launch.runtime", *(f"disagg_launch.{name[:-3]}" for name in zipapp.MODULES)}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_only_the_standard_library_is_imported(path):
    for name in imports(path):
        ours = name in OURS or name.startswith("disagg_launch.runtime.")
        lazily = (path.name, name) == ("world.py", "mpi4py")
        assert ours or lazily or name.partition(".")[0] in sys.stdlib_module_names, name


def test_python_3_9_is_enough():
    vermin = [str(pathlib.Path(sys.executable).with_name("vermin")), "--target=3.9-", "--violations", "--no-tips"]
    done = subprocess.run([*vermin, *map(str, SOURCES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_zipapp_is_the_same_bytes_in_every_process_and_holds_every_module():
    first = zipapp.bundle()
    again = "import sys; from disagg_launch import zipapp; sys.stdout.buffer.write(zipapp.bundle())"
    assert subprocess.run([sys.executable, "-c", again], capture_output=True, check=True).stdout == first
    assert first.startswith(b"#!/usr/bin/env python3\n")
    names = zipfile.ZipFile(io.BytesIO(first)).namelist()
    assert names == sorted(names)
    assert {"__main__.py", *(f"disagg_launch/{p.relative_to(PACKAGE).as_posix()}" for p in SOURCES)} <= set(names)


def test_the_zipapp_runs_without_the_package(tmp_path):
    (tmp_path / "runtime.pyz").write_bytes(zipapp.bundle())
    done = subprocess.run([sys.executable, "-I", "-S", str(tmp_path / "runtime.pyz"), "rank", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--launcher" in done.stdout


def other_pythons():
    """Interpreters of this machine that may meet a runtime.pyz: the oldest allowed, and newer ones than this."""
    for minor in range(9, 16):
        path = shutil.which(f"python3.{minor}")
        works = path and subprocess.run([path, "-c", f"import sys; assert sys.version_info[:2] == (3, {minor})"], capture_output=True)
        if works and works.returncode == 0:
            yield path


@pytest.mark.parametrize("python", list(other_pythons()))
def test_other_pythons_run_the_zipapp(tmp_path, python):
    (tmp_path / "runtime.pyz").write_bytes(zipapp.bundle())
    done = subprocess.run([python, str(tmp_path / "runtime.pyz"), "gateway", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--hosts" in done.stdout
    rank = [python, str(tmp_path / "runtime.pyz"), "rank", "--launcher=local", "--step=x", "--digest=y"]
    assert subprocess.run(rank, capture_output=True).returncode == 70


HEAVY = {"asyncio", "argparse", "ctypes", "dataclasses", "inspect", "ipaddress", "logging", "mpi4py", "shutil", "subprocess", "typing"}


def test_a_rank_imports_nothing_heavy(tmp_path):
    (tmp_path / "runtime.pyz").write_bytes(zipapp.bundle())
    rank = [str(tmp_path / "runtime.pyz"), "rank", "--launcher=local", "--step=x", "--digest=y"]
    done = subprocess.run([sys.executable, "-X", "importtime", "-I", "-S", *rank], capture_output=True, text=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.returncode == 70 and "disagg_launch.runtime.bootstrap" in loaded
    assert loaded & HEAVY == set()
