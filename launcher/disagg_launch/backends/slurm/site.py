"""Site profiles: what is true of a cluster and not of a deployment. YAML files; `disagg-launch site probe` writes one."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from disagg_launch.errors import BadInput

Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Many = Annotated[tuple[Text, ...], Field(strict=False)]
DEFAULT = "generic"


class Site(BaseModel):
    """One cluster. Everything has a default that suits a plain Slurm with GPUs."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    about: str = ""
    """One line for `site list`."""
    gpus_flag: Literal["gpus-per-node", "gres", "none"] = "gpus-per-node"
    """How GPUs are asked for; none: whole nodes are given, nothing is said."""
    gpu_type: Optional[Name] = None
    mpi: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")] = "pmix"
    """srun's --mpi, one of `srun --mpi=list`."""
    container: Literal["pyxis", "apptainer", "none"] = "none"
    sharing: Literal["overlap", "exact"] = "overlap"
    """overlap: a step sees its whole node and takes the GPUs the plan names. exact: Slurm gives each step GPUs and CPUs of its own."""
    cpu_bind: Optional[Text] = None
    """srun's --cpu-bind."""
    account: Optional[Text] = None
    partition: Optional[Text] = None
    exclusive: bool = False
    segment: bool = False
    """Ask for --segment=<nodes>: all nodes of a job inside one block (GB200)."""
    interface: Optional[Text] = None
    """Nodes with several networks: the interface (hsn0) or subnet (10.1.0.0/16) whose address the others reach them by."""
    python: Text = "python3"
    """A Python 3.9 or later that every node has."""
    env: dict[Name, str] = Field(default_factory=dict)
    """Set in every step before the ranks start."""
    unset: Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\*?$")], ...], Field(strict=False)] = ()
    """Removed in every step; a name ending in * stands for all that begin so."""
    sbatch_args: Many = ()
    srun_args: Many = ()


def load(name: Optional[str]) -> Site:
    """The profile called `name` among those that come with the program, or the file of that path; None: the default one.

    BadInput when there is none, or with every complaint about the file.
    """
    path = Path(name or DEFAULT)
    known = _shipped()
    if path.suffix in (".yaml", ".yml") and path.is_file():
        text = path.read_text(encoding="utf-8")
    elif str(path) in known:
        text = known[str(path)]
    else:
        raise BadInput(f"slurm.site: no profile {name!r} found; there are {', '.join(sorted(known))}, or give the path of a .yaml file")
    return parse(text, str(path))


def parse(text: str, where: str) -> Site:
    """The profile in a YAML text; BadInput naming `where` and every wrong key."""
    try:
        raw: Any = yaml.safe_load(text)
        return Site.model_validate(raw)
    except yaml.YAMLError as error:
        raise BadInput(f"{where}: not YAML: {error}") from None
    except ValidationError as error:
        lines = [f"{where}: {'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']} (found {e['input']!r})" for e in error.errors()]
        raise BadInput("\n".join(lines)) from None


def names() -> dict[str, str]:
    """Name of each profile that comes with the program -> what it is about."""
    return {name: parse(text, name).about for name, text in sorted(_shipped().items())}


def to_yaml(site: Site) -> str:
    """The profile as a file, only what differs from the defaults, each key with its explanation."""
    lines = []
    for key, field in Site.model_fields.items():
        value = getattr(site, key)
        if field.is_required() or value != field.get_default(call_default_factory=True):
            if field.description:
                lines.append(f"# {field.description}")
            plain = list(value) if isinstance(value, tuple) else value
            lines.append(yaml.safe_dump({key: plain}, allow_unicode=True, width=10_000).rstrip())
    return "\n".join(lines) + "\n"


def _shipped() -> dict[str, str]:
    folder = importlib.resources.files("disagg_launch.slurm") / "sites"
    return {f.name.removesuffix(".yaml"): f.read_text(encoding="utf-8") for f in folder.iterdir() if f.name.endswith(".yaml")}
