"""Run folders with tiny real workers, and gateways as real processes that are gone after each test."""

import contextlib
import signal
import subprocess
import sys
import types

import pytest
from deployments import HERE, ROUTER, WORKER, Deployment, free_ports, make_plan

from disagg_launch import backends, launch, plan, zipapp
from disagg_launch.launch import Launch, Policy, Readiness, Ref, Router, Worker
from disagg_launch.spec.model import Mpi


@pytest.fixture
def deploy(tmp_path):
    """deploy(sizes, flags={instance: worker flags}, ...) writes a run folder and gives its Deployment."""
    made = []

    def build(sizes=(1,), flags=None, workers=None, backend="local", mpi=None, router=(), policy=None, readiness=None, name="run", nodes=1):
        run = tmp_path / name
        run.mkdir()
        *ports, router_port = free_ports(len(sizes) + 1)
        layout = make_plan(sizes, ports, nodes)
        flags = flags or {}
        workers = workers or [Worker(i.name, (*WORKER, *flags.get(i.name, ())), gpus=False) for i in layout.instances]
        spec = types.SimpleNamespace(mpi=mpi or Mpi())
        starts, files = backends.load(backend).render(spec, layout, tuple(workers), sys.executable)
        manifest = Launch(
            digest=layout.digest,
            backend=backend,
            starts=starts,
            workers=tuple(workers),
            router=Router((*ROUTER, *router), port=router_port),
            readiness=readiness or Readiness(limit_s=60, interval_s=0.2),
            policy=policy or Policy(grace_s=5),
        )
        (run / "plan.json").write_text(plan.to_json(layout))
        (run / "launch.json").write_text(launch.to_json(manifest))
        (run / "runtime.pyz").write_bytes(zipapp.bundle())
        for one in files:
            path = run / one.path
            path.parent.mkdir(exist_ok=True)
            path.write_text(one.text)
        made.append(Deployment(run, layout, manifest))
        return made[-1]

    yield build
    for one in made:
        if one.process and one.process.poll() is None:
            one.process.send_signal(signal.SIGINT)
            one.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(20)
            one.process.kill()
        if one.process:
            one.process.stdout.close()
            one.errors.close()


@pytest.fixture
def play(deploy):
    """play({instance: acts}, ...) is a deployment of instances that do what they are told; `sizes` are their numbers of ranks."""

    def build(acts, **more):
        argv = (sys.executable, "-I", "-S", str(HERE / "actor.py"), (Ref("port"),))
        workers = [Worker(name, (*argv, *steps), gpus=False) for name, steps in acts.items()]
        return deploy(more.pop("sizes", (1,) * len(acts)), workers=workers, **more)

    return build
