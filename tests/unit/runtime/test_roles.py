"""From a launcher's variables to a row, its numbers, its GPUs and its texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disagg_launch import plan as plans
from disagg_launch.errors import BadInput, RankRefused
from disagg_launch.launch import INSTANCE, NODE, RANK, Launch, Ref, Router, Start, Worker
from disagg_launch.plan import CONTEXT, GENERATION, Instance, Plan, Rank
from disagg_launch.runtime import binding as bindings
from disagg_launch.runtime import gpus
from disagg_launch.runtime.binding import Reader, Scope, bound
from disagg_launch.runtime.launchers import LAUNCHERS, blame_of, label_of, place_of
from disagg_launch.runtime.tasks import neighbours, numbers, tasks_of


def layout():
    """ctx0 has GPU 0 of node 0; gen0 has GPUs 2 and 3 of node 0 and 0 and 1 of node 1."""
    ranks = [Rank(0, "ctx0", CONTEXT, 0, 0, 0, 0, 0)]
    ranks += [
        Rank(1 + k, "gen0", GENERATION, k, k % 2, k // 2, node, gpu) for k, (node, gpu) in enumerate([(0, 2), (0, 3), (1, 0), (1, 1)])
    ]
    instances = (Instance("ctx0", CONTEXT, 0, 1, (0,), 8001), Instance("gen0", GENERATION, 1, 4, (0, 1), 8002))
    return Plan("two", 2, 4, instances, tuple(ranks)).sealed()


def world(kind=RANK):
    return Start("world", 0, 5, ("ctx0", "gen0"), ("true",)), (Worker("ctx0", ("true",), tasks=kind), Worker("gen0", ("true",), tasks=kind))


@pytest.mark.parametrize(
    ("kind", "rows"), [(RANK, [[0], [1], [2], [3], [4]]), (NODE, [[0], [1, 2], [3, 4]]), (INSTANCE, [[0], [1, 2, 3, 4]])]
)
def test_tasks_stand_for_ranks_nodes_or_instances(kind, rows):
    start, workers = world(kind)
    assert [[r.rank for r in task.rows] for task in tasks_of(layout(), start, workers)] == rows


def test_numbers_and_neighbours_are_the_plans_not_the_launchers():
    start, workers = world()
    task = tasks_of(layout(), start, workers)[4]
    assert numbers(layout(), task, workers[1]) == {"node_rank": 1, "node_count": 2, "local_rank": 1}
    assert [r.rank for r in neighbours(layout(), task)] == [3, 4]


@pytest.mark.parametrize(
    ("name", "environ"),
    [
        ("hydra", {"PMI_RANK": "3", "PMI_SIZE": "5", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}),
        ("openmpi", {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "5", "PMI_RANK": "0"}),
        ("slurm", {"SLURM_PROCID": "3", "SLURM_NTASKS": "5", "PMI_RANK": "1"}),
        ("local", {"DISAGG_TASK": "3", "DISAGG_TASKS": "5"}),
    ],
)
def test_only_the_named_launchers_variables_count(name, environ):
    assert place_of(name, environ) == (3, 5)


def test_a_plain_process_is_task_0_of_1_and_no_other_launcher_may_say_nothing():
    assert place_of("local", {"PMI_RANK": "7"}) == (0, 1)
    for name in set(LAUNCHERS) - {"local"}:
        with pytest.raises(RankRefused, match="is not set") as refused:
            place_of(name, {"DISAGG_TASK": "1"})
        assert refused.value.exit_code == RankRefused.NO_RANK
    with pytest.raises(RankRefused, match="'many'"):
        place_of("slurm", {"SLURM_PROCID": "0", "SLURM_NTASKS": "many"})


@pytest.mark.parametrize(
    ("name", "line", "task", "text"),
    [
        ("hydra", "[12] hello", 12, "hello"),
        ("openmpi", "[1,7]<stdout>:hello", 7, "hello"),
        ("openmpi", "[1,7]<stderr>: hello", 7, "hello"),
        ("openmpi", "[prterun-vm-3@1,7]<stdout>:hello", 7, "hello"),
        ("slurm", " 3: hello", 3, "hello"),
    ],
)
def test_marks_of_output_lines(name, line, task, text):
    mark = label_of(name).match(line)
    assert (int(mark.group(1)), line[mark.end() :]) == (task, text)
    assert label_of("local").match(line) is None


@pytest.mark.parametrize(
    ("name", "line", "blamed"),
    [
        ("hydra", "Abort(1) on node 2 (rank 2 in comm 0): application called MPI_Abort(MPI_COMM_WORLD, 1) - process 2", (2, "")),
        ("openmpi", "MPI_ABORT was invoked on rank 5 in communicator MPI_COMM_WORLD", (5, "")),
        ("openmpi", "mpirun noticed that process rank 1 with PID 0 on node vm exited on signal 9 (Killed).", (1, "")),
        ("slurm", "srun: error: node1: task 2: Exited with exit code 3", (2, "exit code 3")),
        ("slurm", "srun: error: node1: tasks 4-7: Killed", (4, "Killed")),
        ("slurm", "srun: launching tasks", None),
        ("local", "application called MPI_Abort(MPI_COMM_WORLD, 1) - process 2", None),
    ],
)
def test_who_is_blamed_by_a_launchers_line(name, line, blamed):
    assert blame_of(name, line) == blamed


# slots wanted, the step's slots on the node, CUDA_VISIBLE_DEVICES, devices, GPUs the launcher gave the step, expected
GIVEN = [
    ([2], [2, 3], None, "0123", None, ("2",)),
    ([2, 3], [2, 3], "4,5,6,7", "", None, ("6", "7")),  # the node's list, some GPUs further on
    ([1], [1], "GPU-aa,GPU-bb", "", None, ("GPU-bb",)),  # UUIDs
    ([2], [2, 3], "0,1", "", 2, ("0",)),  # Slurm gave the step just its own, numbered anew
    ([3, 2], [2, 3], "5,6", "", 2, ("6", "5")),  # in the plan's order
    ([2], [2, 3], "0,1,2,3", "", 4, ("2",)),  # an overlapping step sees the whole node
    ([3], [2, 3], "7", "", 2, ("7",)),  # one GPU bound to each task
    ([1], [1], "3", "", 1, ("3",)),
]


@pytest.mark.parametrize(("wanted", "step", "variable", "devices", "step_has", "expected"), GIVEN)
def test_slots_become_devices(wanted, step, variable, devices, step_has, expected):
    assert gpus.visible(wanted, step, gpus.given(variable), tuple(devices), step_has) == expected


@pytest.mark.parametrize(
    ("wanted", "step", "variable", "devices", "step_has", "said"),
    [
        ([2], [2], None, "01", None, "/dev/nvidia0, /dev/nvidia1"),
        ([0], [0], None, "", None, "are none"),
        ([0], [0], "", "0", None, "gives it none"),
        ([0], [0], "NoDevFiles", "0", 1, "gives it none"),
        ([0], [0], "-1", "0", None, "gives it none"),
        ([1], [1], "3", "", None, "gives it 3"),  # never the one GPU for every slot: that would be a GPU used twice
        ([2, 3], [2, 3], "0", "", 1, "gives it 0"),
        ([3], [2, 3], "0", "", 1, "gives it 0"),  # a step that got one GPU for two ranks, not one bound to each task
    ],
)
def test_a_slot_without_device_is_refused(wanted, step, variable, devices, step_has, said):
    with pytest.raises(RankRefused, match="GPU slot") as refused:
        gpus.visible(wanted, step, gpus.given(variable), tuple(devices), step_has)
    assert refused.value.exit_code == RankRefused.GPU_MISSING and said in str(refused.value)


@given(st.sets(st.integers(0, 7), min_size=1), st.booleans(), st.permutations(range(8)))
def test_no_two_slots_of_a_step_get_one_device(slots, per_step, order):
    listed = [str(n) for n in order][: len(slots) if per_step else 8]
    step_has = len(listed) if per_step else None
    got = [gpus.visible([slot], sorted(slots), listed, (), step_has)[0] for slot in sorted(slots)]
    assert len(set(got)) == len(got)


def manifest(router_host="127.0.0.1"):
    start, workers = world()
    return Launch(layout().digest, "slurm", (start,), workers, Router(("true",), host=router_host, port=8000, node=1))


def test_late_bound_texts():
    start, workers = world()
    binding = bound(layout(), ("node5", "node7"), ("10.0.0.5", "10.0.0.7"))
    task = tasks_of(layout(), start, workers)[4]
    reader = Reader(task, numbers(layout(), task, workers[1]), ("2", "3"))

    scope = Scope("/run folder", layout(), manifest("0.0.0.0"), binding)

    def value(what, of=""):
        return scope.value(Ref(what, of), reader)

    assert value("url", "ctx0") == "10.0.0.5:8001" and value("url") == "10.0.0.5:8002"
    assert (value("rank"), value("instance_rank"), value("tp_rank"), value("pp_rank")) == ("4", "3", "1", "1")
    assert (value("node_rank"), value("node_count"), value("local_rank"), value("size"), value("gpus")) == ("1", "2", "1", "4", "2,3")
    assert (value("run"), value("host", "@1"), value("name"), value("role")) == ("/run folder", "10.0.0.7", "gen0", GENERATION)
    assert value("url", "router") == "10.0.0.7:8000"
    assert scope.text(("http://", Ref("host"), "/{x}"), reader) == "http://10.0.0.5/{x}" and scope.text("plain", reader) == "plain"
    assert Scope("", layout(), manifest(), binding).value(Ref("host", "router"), reader) == "127.0.0.1"


def test_a_text_without_reader_has_no_rank():
    binding = bindings.on_this_machine(layout())
    for ref in (Ref("rank"), Ref("rank", "gen0"), Ref("host")):
        with pytest.raises(BadInput, match="place holder"):
            Scope("", layout(), manifest(), binding).value(ref, Reader())


def test_fewer_hosts_than_nodes_or_other_addresses_than_hosts_are_refused():
    with pytest.raises(BadInput, match="needs 2 nodes, 1 hosts"):
        bound(layout(), ("a",))
    with pytest.raises(BadInput, match="3 hosts but 1 addresses"):
        bound(layout(), ("a", "b", "spare"), ("10.0.0.1",))


def test_one_world_and_a_step_per_instance_count_the_same_ranks():
    steps = plans.steps_per_instance(layout())
    assert sum(s.size for s in steps) == plans.step_of_world(layout()).size == 5
