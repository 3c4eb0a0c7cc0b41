"""The map `slurm` of a topology file."""

from __future__ import annotations

from typing import Literal, Optional

from disagg_launch.spec.fields import Closed, Count, Line, Many, Name, Short, Size


class SlurmPart(Closed):
    """What one Slurm job, or one component of a heterogeneous job, asks for."""

    partition: Optional[Line] = None
    """--partition"""
    account: Optional[Line] = None
    """--account"""
    qos: Optional[Line] = None
    """--qos"""
    reservation: Optional[Line] = None
    """--reservation"""
    constraint: Optional[Line] = None
    """--constraint"""
    gpus_flag: Optional[Literal["gpus-per-node", "gres", "none"]] = None
    """How GPUs are asked for; left out: the site profile says."""
    gpu_type: Optional[Name] = None
    """The type in gres=gpu:TYPE:N or gpus-per-node=TYPE:N."""
    cpus_per_task: Optional[Size] = None
    """--cpus-per-task"""
    memory: Optional[Short] = None
    """--mem"""
    nodelist: Optional[Line] = None
    """--nodelist"""
    exclude_hosts: Optional[Line] = None
    """--exclude"""
    exclusive: Optional[bool] = None
    """--exclusive"""
    segment: Optional[Size] = None
    """--segment: nodes that have to lie in one block of the topology"""
    switches: Optional[Short] = None
    """--switches: COUNT or COUNT@TIME"""
    extra_args: Many[Line] = ()
    """Further sbatch options, one per item, as typed: --licenses=a:1"""


class Het(Closed):
    """A heterogeneous job: what differs for the nodes of a role."""

    context: SlurmPart = SlurmPart()
    generation: SlurmPart = SlurmPart()


class Slurm(SlurmPart):
    """How a job is asked for. What is left out comes from the site profile, or is not said at all."""

    site: Optional[Line] = None
    """Name of a site profile, or the path of one."""
    job_name: Optional[Name] = None
    """--job-name; left out: the deployment's name."""
    time: Optional[Short] = None
    """Time limit as Slurm takes it: minutes, H:MM:SS, D-HH:MM:SS"""
    comment: Optional[Line] = None
    """--comment"""
    mail_type: Optional[Line] = None
    """--mail-type"""
    mail_user: Optional[Line] = None
    """--mail-user"""
    dependency: Optional[Line] = None
    """--dependency"""
    array: Optional[Short] = None
    """--array"""
    requeue: Optional[bool] = None
    """--requeue or --no-requeue"""
    mode: Literal["step-per-instance", "single-srun", "single-mpirun"] = "step-per-instance"
    """How ranks are started: an srun per instance, one srun for all, or one mpirun for all."""
    mpi: Optional[Name] = None
    """srun's --mpi: pmix, pmi2, none; left out: the site profile says."""
    srun_args: Many[Line] = ()
    """Further srun options of every step."""
    container_image: Optional[Line] = None
    """Image of every worker: a pyxis name or the path of a .sqsh or .sif file."""
    container_mounts: Many[Line] = ()
    """from:to[:flags]"""
    container_name: Optional[Line] = None
    """Name of a container that steps share; better left out."""
    container_workdir: Optional[Line] = None
    """Working directory in the container."""
    container: Optional[Literal["pyxis", "apptainer", "none"]] = None
    """What runs containers; left out: the site profile says."""
    interface: Optional[Line] = None
    """Network interface whose address the nodes are reached by."""
    numa_bind: bool = False
    """Bind workers' memory with numactl (GB200, GB300)."""
    signal_s: Count = 60
    """Seconds before the time limit at which the job is told to end."""
    drain_s: Count = 30
    """Seconds that requests in flight get to finish."""
    het: Optional[Het] = None
    """A heterogeneous job: one component for each role."""
