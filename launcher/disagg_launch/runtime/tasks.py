"""Which rows of the plan each task of a step stands for. Pure; the planning half counts tasks with it, the ranks look themselves up."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Mapping

    from disagg_launch.launch import Start, Worker
    from disagg_launch.plan import Instance, Plan, Rank


class Task:
    """One process of a step: the plan's rows it stands for, all on one node unless it is its instance's only task."""

    def __init__(self, instance: Instance, rows: tuple[Rank, ...]) -> None:
        self.instance, self.rows = instance, rows

    @property
    def row(self) -> Rank:
        """The row that gives the task its numbers: its first."""
        return self.rows[0]


def tasks_of(plan: Plan, start: Start, workers: Iterable[Worker]) -> tuple[Task, ...]:
    """The tasks of one step, in order of task number: instances in the step's order, their tasks in rank order."""
    kind = {w.instance: w.tasks for w in workers}
    return tuple(task for name in start.instances for task in _instance_tasks(plan, plan.instance(name), kind[name]))


def _instance_tasks(plan: Plan, instance: Instance, kind: str) -> tuple[Task, ...]:
    rows = plan.ranks_of(instance.name)
    if kind == "instance":
        return (Task(instance, rows),)
    if kind == "node":
        return tuple(Task(instance, tuple(r for r in rows if r.node == node)) for node in instance.nodes)
    return tuple(Task(instance, (r,)) for r in rows)


def neighbours(plan: Plan, task: Task) -> tuple[Rank, ...]:
    """All rows of the task's instance on the task's node, in rank order."""
    return tuple(r for r in plan.ranks_of(task.instance.name) if r.node == task.row.node)


def numbers(plan: Plan, task: Task, worker: Worker) -> Mapping[str, int]:
    """The task's place as engines ask for it: node_rank (of the instance's nodes), node_count and local_rank (of its tasks on the node)."""
    row, instance = task.row, task.instance
    mates = [t.row.rank for t in _instance_tasks(plan, instance, worker.tasks) if t.row.node == row.node]
    return {"node_rank": instance.nodes.index(row.node), "node_count": len(instance.nodes), "local_rank": mates.index(row.rank)}
