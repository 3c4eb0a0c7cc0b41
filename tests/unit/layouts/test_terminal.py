"""The plan in a terminal: bars, alike nodes in one line, colour only where somebody looks."""

import io

import pytest
from rich.console import Console

from disagg_launch import place, spec
from disagg_launch.layouts.bars import alike, bars
from disagg_launch.layouts.explain import explanation
from disagg_launch.layouts.terminal import lines

TOPOLOGY = """
model: /models/m
context_servers: {num_instances: %d, tensor_parallel_size: %d}
generation_servers: {num_instances: %d, tensor_parallel_size: %d, pipeline_parallel_size: %d}
engine: {name: reference}
cluster: {%s}
"""


def planned(*values):
    topology = spec.loads(TOPOLOGY % values)
    return topology, place.place(topology)


def text_of(plan, **options):
    out = io.StringIO()
    console = Console(file=out, highlight=False, soft_wrap=True, width=80, **options)
    for line in lines(plan, 80):
        console.print(line)
    return out.getvalue()


def test_free_gpus_are_dots():
    _, plan = planned(1, 2, 1, 1, 1, "gpus_per_node: 4")
    assert text_of(plan).splitlines()[-1] == "node 0  [ctx0 tp0-1 pp0][gen0  ].       "


def test_nodes_that_show_the_same_are_one_line():
    _, plan = planned(2, 8, 1, 8, 4, "gpus_per_node: 8")
    picture = text_of(plan).splitlines()[-3:]
    assert [line.split("[")[0].strip() for line in picture] == ["node 0", "node 1", "node 2-5"]
    assert "gen0 tp0-7 pp0-3" in picture[2]
    assert [len(group) for group in alike(bars(plan))] == [1, 1, 4]


@pytest.mark.parametrize("gpus", [1, 4, 8, 16, 72])
def test_no_line_is_wider_than_80_columns(gpus):
    _, plan = planned(5, min(4, gpus), 3, min(8, gpus), 2, f"gpus_per_node: {gpus}")
    widest = 80 if gpus <= 32 else 8 + 2 * gpus
    assert max(map(len, text_of(plan).splitlines())) <= widest


def test_a_long_plan_is_cut_and_says_so():
    _, plan = planned(400, 1, 400, 8, 1, "gpus_per_node: 8")
    text = text_of(plan)
    assert "... 752 more" in text
    assert "more nodes: `disagg-launch layout write SPEC --form html` shows them all" in text
    assert len(text.splitlines()) < 120


def test_colour_only_on_a_terminal():
    _, plan = planned(1, 2, 1, 1, 1, "gpus_per_node: 4")
    assert "\x1b[" not in text_of(plan)
    assert "\x1b[" in text_of(plan, force_terminal=True, color_system="standard")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((1, 2, 1, 1, 1, "gpus_per_node: 4"), "ctx0 on node 0: 2 GPUs (tp 2) whole on a node of 4"),
        ((1, 2, 1, 1, 1, "gpus_per_node: 4"), "left over: 1 GPU"),
        (
            (1, 1, 1, 6, 1, "gpus_per_node: 4"),
            "a tensor-parallel group of 6 is larger than a node of 4, so it fills whole nodes",
        ),
        ((1, 1, 1, 3, 3, "gpus_per_node: 8"), "need 2 nodes: a node of 8 takes 2 whole tensor-parallel groups of 3"),
        ((1, 4, 4, 1, 3, "gpus_per_node: 4"), "in the gaps of 3 nodes, though 1 would do: that saves a node"),
        ((2, 1, 1, 1, 1, "gpus_per_node: 4, policy: spread"), "with no other of its role"),
        ((2, 1, 1, 1, 1, "gpus_per_node: 4, policy: align_domain, domain_nodes: 2"), "inside domain 0"),
        ((1, 1, 1, 1, 1, "gpus_per_node: 4, pins: {ctx0: {nodes: [1]}}"), "ctx0 on node 1: pinned to node 1"),
        ((1, 1, 1, 1, 1, "gpus_per_node: 4, nodes: 1"), "separate_roles  does not fit: no room for gen0"),
        ((1, 1, 1, 1, 1, "gpus_per_node: 4"), "  separate_roles  2 nodes, 0 of them shared by instances, 0 instances on several nodes"),
    ],
)
def test_explanation(values, text):
    assert any(text in line for line in explanation(*planned(*values))), list(explanation(*planned(*values)))
