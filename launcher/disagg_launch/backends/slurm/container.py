"""A step inside a container, by pyxis (srun options) or by Apptainer (a program before the worker's)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Union

from disagg_launch.errors import BadInput
from disagg_launch.templating import Raw, quote

if TYPE_CHECKING:
    from disagg_launch.backends.slurm.site import Site
    from disagg_launch.spec import Slurm

Words = list[Union[str, Raw]]


def options(slurm: Slurm, site: Site) -> Words:
    """The srun options of pyxis; none without an image or with another runtime. The run folder is mounted where it is."""
    if _runtime(slurm, site) != "pyxis":
        return []
    mounts = "".join(f",{quote(mount)}" for mount in _mounts(slurm))
    out: Words = [f"--container-image={slurm.container_image}", Raw(f'--container-mounts="$PWD:$PWD"{mounts}')]
    out += [f"--container-name={slurm.container_name}"] if slurm.container_name else []
    out += [f"--container-workdir={slurm.container_workdir}"] if slurm.container_workdir else []
    return [*out, "--no-container-mount-home"]


def prefix(slurm: Slurm, site: Site) -> Words:
    """The words before a command that runs in Apptainer; none otherwise."""
    if _runtime(slurm, site) != "apptainer":
        return []
    binds = [f"--bind={mount}" for mount in _mounts(slurm)]
    workdir = [f"--pwd={slurm.container_workdir}"] if slurm.container_workdir else []
    return ["apptainer", "exec", "--nv", Raw('--bind="$PWD"'), *binds, *workdir, slurm.container_image or ""]


def _runtime(slurm: Slurm, site: Site) -> str:
    """What runs the container, "" without an image. BadInput when there is an image and nothing to run it."""
    if not slurm.container_image:
        return ""
    runtime = slurm.container or site.container
    if runtime == "none":
        raise BadInput(f"slurm.container_image: given, but site {site.name} runs no containers: set slurm.container to pyxis or apptainer")
    return runtime


def _mounts(slurm: Slurm) -> tuple[str, ...]:
    for mount in slurm.container_mounts:
        if "," in mount:
            raise BadInput(f"slurm.container_mounts: {mount!r} holds a comma, at which it would be split; rename the folder or link to it")
    return slurm.container_mounts
