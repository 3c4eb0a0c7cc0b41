"""What is asked at which port of our front door, with TLS for its clients and without."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from disagg_launch import launch as launches
from disagg_launch import place, render, spec
from disagg_launch.launch import Launch
from disagg_launch.runtime import binding as bindings
from disagg_launch.runtime.binding import Binding, Reader, Scope

BASE = """\
model: m
engine: {name: reference}
context_servers: {num_instances: 1}
generation_servers: {num_instances: 1}
cluster: {nodes: 2, gpus_per_node: 1}
disagg_cluster: {cluster_uri: auto}
"""
TLS = "tls_cert_file: front.pem, tls_key_file: keys/front.pem"


def rendered(options: str, backend: str = "slurm", up: int = 512, more: str = "") -> tuple[Launch, dict[str, Any]]:
    """launch.json, and the router's configuration on hosts a and b, whose addresses end in 1 and 2; its port is `up` higher."""
    topology = spec.loads(f"{BASE}router: {{options: {{{options}}}}}\n{more}", "/of/mine/t.yaml")
    plan = place.place(topology)
    files = {one.path: one.text for one in render.render(topology, plan, backend, "python3")}
    made = launches.from_json(str(files["launch.json"]))
    bound = Binding(("a", "b"), ("10.0.0.1", "10.0.0.2"), 0, up) if backend == "slurm" else bindings.on_this_machine(plan)
    text = Scope("/run", plan, made, bound).text(made.files["configs/router.yaml"], Reader())
    return made, yaml.safe_load(text)


def test_with_tls_the_launcher_and_workers_have_the_port_below() -> None:
    made, config = rendered(TLS)
    door, router = config["front_door"], made.router
    assert (config["hostname"], config["port"], door["plain_address"]) == ("0.0.0.0", 8512, "10.0.0.1:8511")
    assert config["disagg_cluster"]["cluster_uri"] == "http://10.0.0.1:8511"
    assert (router.asked_at(512), router.asked_at(0), router.page) == (8511, 7999, "/ui")
    assert (
        (door["tls_cert_file"], door["tls_key_file"])
        == (router.tls_cert, router.tls_key)
        == ("/of/mine/front.pem", "/of/mine/keys/front.pem")
    )
    assert made.ports.first == 7999  # held with the others


def test_an_admin_port_is_taken_as_it_is_given() -> None:
    made, config = rendered(f"{TLS}, admin_port: 9999")
    assert "plain_address" not in config["front_door"]
    assert config["disagg_cluster"]["cluster_uri"] == "http://10.0.0.1:9999"
    assert (made.router.asked_at(512), made.router.page, made.router.metrics) == (9999, ":9999/ui", (":", "9999", "/metrics"))


@pytest.mark.parametrize(("options", "port", "page"), [("", 8000, "/ui"), ("admin_port: 9999", 9999, ":9999/ui"), ("ui: false", 8000, "")])
def test_without_tls_there_is_one_port_for_all_but_the_admin(options: str, port: int, page: str) -> None:
    made, config = rendered(options, "local")
    assert "plain_address" not in config["front_door"]
    assert config["disagg_cluster"]["cluster_uri"] == "http://localhost:8000"
    assert (made.router.asked_at(0), made.router.page, made.router.metrics, made.router.tls_cert) == (port, page, "/metrics", "")


def test_on_one_machine_what_is_inside_is_on_loopback() -> None:
    assert rendered(TLS, "local", more="hostname: 0.0.0.0\n")[1]["front_door"]["plain_address"] == "127.0.0.1:7999"


def test_another_router_has_its_own_words_for_it() -> None:
    topology = spec.loads(
        BASE.replace("disagg_cluster: {cluster_uri: auto}\n", "") + f"router: {{name: command, command: [x], options: {{{TLS}}}}}\n"
    )
    files = {one.path: one.text for one in render.render(topology, place.place(topology), "local", "python3")}
    assert launches.from_json(str(files["launch.json"])).router.tls_cert == ""
