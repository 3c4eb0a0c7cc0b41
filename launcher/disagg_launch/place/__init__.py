"""Placement: `place(spec)` is the plan, `layout(demands, cluster)` the same on plain data. It asks no machine, clock or environment."""

from disagg_launch.place.model import POLICIES, Cluster, Demand, Layout, NoRoom, Region, Seat
from disagg_launch.place.planner import cluster_of, demands_of, place
from disagg_launch.place.solve import layout

__all__ = ["POLICIES", "Cluster", "Demand", "Layout", "NoRoom", "Region", "Seat", "cluster_of", "demands_of", "layout", "place"]
