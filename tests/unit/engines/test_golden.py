"""Every engine x launch form x backend, whole, against files that a person has read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from engine_view import EXAMPLES, ROOT, described, front_door, marked, planned

from disagg_launch import engines, render
from disagg_launch.errors import BadInput
from disagg_launch.launch import bind, from_json

GOLDEN = ROOT / "tests/golden/engines"
SPECS = sorted([*(EXAMPLES / "seed").glob("*.yaml"), *(EXAMPLES / "engines").glob("*.yaml")])
BACKENDS = ("local", "mpirun", "slurm")


def rendered(path: Path) -> str:
    """What an example becomes: workers, front door and configuration files, then how each backend starts the steps."""
    topology, plan = planned(path)
    engine = engines.load(topology.engine.name)
    out = [described(plan, engine.worker(topology, plan, one)) for one in plan.instances]
    door, door_files = front_door(topology, plan)
    environ = [f"{name}={bind(text, marked)}" for name, text in door.environ.items()]
    started = "before the instances" if door.early else "when every instance is ready"
    out.append("\n".join([f"## router: started {started}", *environ, *(bind(word, marked) for word in door.argv)]) + "\n")
    files = {**engine.files(topology, plan), **door_files}
    out += [f"==> {name} <==\n{bind(text, marked)}" for name, text in sorted(files.items())]
    for backend in BACKENDS:
        out.append(f"## backend {backend}\n{steps(topology, plan, backend)}")
    return "\n".join(out)


def steps(topology: object, plan: object, backend: str) -> str:
    """The command that ends each step's script (the script itself is its backend's business), or why there is none."""
    try:
        files = render.render(topology, plan, backend, "python3")  # type: ignore[arg-type]
    except BadInput as refused:
        return str(refused).rpartition("/")[2] + "\n"
    launch = from_json(next(str(one.text) for one in files if one.path == "launch.json"))
    scripts = {one.path: str(one.text) for one in files if one.path.startswith(("steps/", "prepare/"))}
    commands = {start.argv[-1]: scripts[start.argv[-1]].rpartition("\nexec ")[2] for start in launch.starts}
    commands.update({path: text for path, text in scripts.items() if path.startswith("prepare/")})
    return "\n".join(f"==> {path} <==\n{text}" for path, text in commands.items())


@pytest.mark.parametrize("path", SPECS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_golden(path: Path, golden: Callable[[str, str], None]) -> None:
    found = rendered(path)
    assert "Ref(" not in found, "a late-bound value became text too early"
    golden(f"engines/{path.parent.name}-{path.stem}.txt", found)


def test_no_golden_file_is_left_over() -> None:
    assert {one.stem for one in GOLDEN.glob("*.txt")} == {f"{path.parent.name}-{path.stem}" for path in SPECS}
