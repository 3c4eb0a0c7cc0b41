"""Each rule has a file that triggers it and nothing else, and one that triggers nothing."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import subprocess

import pytest
from certificates import certificate

from disagg_launch import lint, spec
from disagg_launch.lint.rule import read_document
from disagg_launch.lint.rules.running import minutes
from disagg_launch.place import place
from disagg_launch.weights import on_disk

HERE = pathlib.Path(__file__).parent
DOCS = HERE.parents[2] / "docs" / "lint.md"


def document(model: str, name: str) -> dict:
    return read_document(str(HERE / model), name)


def weights(model: str) -> int:
    return on_disk(str(HERE / model))


def complaints(path: pathlib.Path) -> tuple[spec.Complaint, ...]:
    loaded = spec.load(path)
    return lint.check(loaded, None if loaded.external else place(loaded), document, weights)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """The cases, with a certificate beside them and one whose key everybody can read."""
    folder = shutil.copytree(HERE / "cases", tmp_path_factory.mktemp("lint") / "cases")
    certificate(folder)
    certificate(folder, "open")[1].chmod(0o644)
    return folder


@pytest.mark.parametrize("number", lint.RULES)
def test_bad_file_triggers_the_rule_alone(number, cases):
    found = complaints(cases / f"{number}-bad.yaml")
    assert {one.number for one in found} == {number}
    assert all(one.severity == lint.RULES[number].severity and one.line >= 1 and str(one).endswith(f"[{number}]") for one in found)


@pytest.mark.parametrize("number", lint.RULES)
def test_good_file_triggers_nothing(number, cases):
    assert complaints(cases / f"{number}-good.yaml") == ()


@pytest.mark.parametrize(
    ("options", "place", "text"),
    [
        ("{tls_cert_file: cert.pem}", "6:35", "found no tls_key_file beside it; needed: both"),
        ("{tls_key_file: cert-key.pem}", "6:34", "found no tls_cert_file beside it; needed: both"),
        ("{tls_cert_file: nobody.pem, tls_key_file: cert-key.pem}", "6:35", "found {folder}/nobody.pem: No such file or directory"),
        ("{tls_cert_file: cert.pem, tls_key_file: other-key.pem}", "6:35", "(key values mismatch)"),
        ("{tls_cert_file: cert.pem, tls_key_file: locked.pem}", "6:59", "found an encrypted key"),
        ("{tls_cert_file: DL001-good.yaml, tls_key_file: cert-key.pem}", "6:35", "found no certificate with its key in"),
    ],
)
def test_what_is_wrong_with_a_certificate_is_said_where_it_stands(options, place, text, tmp_path):
    """A missing half, a missing file, another certificate's key, a locked one, no certificate: each with its place."""
    base = (HERE / "cases" / "DL046-bad.yaml").read_text().partition("router:")[0]
    (tmp_path / "t.yaml").write_text(f"{base}router: {{options: {options}}}\n")
    shutil.copy(HERE / "cases" / "DL001-good.yaml", tmp_path)
    certificate(tmp_path)
    certificate(tmp_path, "other")
    lock = ["openssl", "rsa", "-in", tmp_path / "cert-key.pem", "-aes128", "-passout", "pass:secret", "-out", tmp_path / "locked.pem"]
    subprocess.run(lock, check=True, capture_output=True)
    (tmp_path / "locked.pem").chmod(0o600)
    found = complaints(tmp_path / "t.yaml")
    assert [(f"{one.line}:{one.column}", one.number) for one in found] == [(place, "DL046")]
    assert text.format(folder=tmp_path) in found[0].text


def test_workers_are_not_sent_to_the_port_of_tls(cases):
    base = (cases / "DL046-good.yaml").read_text()
    for uri, wrong in (("auto", 0), ("http://localhost:8000", 1), ("http://localhost:7999", 0), ("etcd://localhost:2379", 0)):
        file = cases / "registering.yaml"
        file.write_text(f"{base}disagg_cluster: {{cluster_uri: '{uri}'}}\n")
        assert [one.key for one in complaints(file) if one.number == "DL046"] == ["disagg_cluster.cluster_uri"] * wrong, uri
        file.unlink()


def test_the_port_below_is_the_front_doors_too():
    text = (HERE / "cases" / "DL001-good.yaml").read_text()
    text += "port: 8002\nrouter: {options: {tls_cert_file: /nobody, tls_key_file: /nobody}}\nlint: {ignore: [DL046]}\n"
    loaded = spec.loads(text, "t.yaml")
    found = lint.check(loaded, place(loaded))
    assert [one.text for one in found if one.number == "DL002"][:1] == ["port 8001 on node 0 is for the front door and for ctx0"]


def test_every_case_belongs_to_a_rule():
    assert {path.name for path in (HERE / "cases").iterdir()} == {f"{n}-{kind}.yaml" for n in lint.RULES for kind in ("bad", "good")}


def test_complaint_points_at_the_inherited_key(tmp_path):
    text = "engine: {name: reference}\nmodel: m\nkv_cache_config: {dtype: fp8}\ncontext_servers:\n  kv_cache_config: {dtype: fp8}\n"
    text += "generation_servers:\ncache_transceiver_config: {backend: UCX, max_tokens_in_buffer: 10}\nmax_seq_len: 100\n"
    found = lint.check(spec.loads(text, "t.yaml"))
    assert [str(one).split(": ")[:3] for one in found] == [["t.yaml:7:64", "warning", "cache_transceiver_config.max_tokens_in_buffer"]]


def test_rule_is_quiet_when_the_file_says_so():
    text = (HERE / "cases" / "DL003-bad.yaml").read_text()
    assert lint.check(spec.loads(text + "lint: {ignore: [DL003]}\n")) == ()
    unknown = lint.check(spec.loads(text + "lint: {ignore: [DL003, DL999]}\n", "t.yaml"))
    assert [(one.severity, one.line, one.key) for one in unknown] == [("warning", 6, "lint.ignore[1]")]


def test_plan_with_too_few_ranks_is_an_error():
    loaded = spec.load(HERE / "cases" / "DL001-good.yaml")
    plan = place(loaded)
    cut = dataclasses.replace(plan, ranks=plan.ranks[:-1])
    assert {one.number for one in lint.check(loaded, cut)} == {"DL001"}


def test_plan_with_a_port_twice_on_a_node_is_an_error():
    loaded = spec.load(HERE / "cases" / "DL001-good.yaml")
    plan = place(loaded)
    clash = dataclasses.replace(plan, instances=tuple(dataclasses.replace(one, port=8001) for one in plan.instances))
    found = lint.check(loaded, clash)
    assert [(one.number, one.text) for one in found] == [
        ("DL002", "port 8001 on node 0 is for ctx0 and for ctx1"),
        ("DL002", "port 8001 on node 0 is for ctx1 and for gen0"),
    ]


def test_running_servers_are_not_asked_how_they_were_started():
    text = "backend: pytorch\ncontext_servers: {urls: ['a:1']}\ngeneration_servers: {urls: ['localhost:8000']}\n"
    loaded = spec.loads(text)
    assert {one.number for one in lint.check(loaded)} == {"DL002"}
    assert {one.number for one in lint.check(loaded, place(loaded))} == {"DL002"}


@pytest.mark.parametrize(
    ("time", "wanted"), [("90", 90), ("5:00", 5), ("1:30:00", 90), ("2-00", 2880), ("1-01:30", 1530), ("1-00:00:30", 1440.5)]
)
def test_slurm_times_in_minutes(time, wanted):
    assert minutes(time) == wanted


def test_unreadable_times_are_no_limit():
    assert minutes("UNLIMITED") == float("inf")


def test_documented_rules_are_the_rules():
    assert DOCS.read_text(encoding="utf-8") == lint.table()


@pytest.mark.parametrize("content", ["[1]", "{", "\xff"])
def test_broken_model_files_are_no_model_files(tmp_path, content):
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    assert read_document(str(tmp_path), "config.json") == {}


def test_a_job_whose_hostname_is_left_to_slurm_is_reachable():
    text = "engine: {name: reference}\nmodel: random:1\ncontext_servers:\ngeneration_servers:\ncluster: {gpus_per_node: 1}\n"
    numbers = [
        {one.number for one in lint.check(loaded, place(loaded))}
        for loaded in (spec.loads(text + more) for more in ("slurm: {time: 5}\n", "slurm: {time: 5}\nhostname: localhost\n"))
    ]
    assert ["DL004" in found for found in numbers] == [False, True]
