"""The topology file: `load(path)` gives a checked, frozen `Spec`, or raises BadInput with every complaint at its place in the file."""

from disagg_launch.spec.complaint import ERROR, WARNING, BadTopology, Complaint
from disagg_launch.spec.load import ROUTER_KEYS, Spec, load, loads
from disagg_launch.spec.maps import Autoscale, Cluster, Engine, Exclude, FrontDoor, Group, Mpi, Pin, Readiness, Restart
from disagg_launch.spec.model import DisaggCluster, MetadataServer, Section, Topology
from disagg_launch.spec.slurm import Het, Slurm, SlurmPart

__all__ = [
    "ERROR",
    "ROUTER_KEYS",
    "WARNING",
    "Autoscale",
    "BadTopology",
    "Cluster",
    "Complaint",
    "DisaggCluster",
    "Engine",
    "Exclude",
    "FrontDoor",
    "Group",
    "Het",
    "MetadataServer",
    "Mpi",
    "Pin",
    "Readiness",
    "Restart",
    "Section",
    "Slurm",
    "SlurmPart",
    "Spec",
    "Topology",
    "load",
    "loads",
]
