"""The worker's command line and YAML file, in `trtllm-serve`'s spelling: what is honoured, ignored with a reason, or refused."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

import yaml

from disagg_launch.errors import BadInput
from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.runtime import cluster as clusters
from disagg_launch.runtime import metadata
from disagg_launch.runtime.cluster import Cluster
from disagg_launch.runtime.metadata import Metadata

log = logging.getLogger(__name__)

# TensorRT-LLM's severities -> Python's levels
LOG_LEVELS = {"internal_error": "CRITICAL", "error": "ERROR", "warning": "WARNING", "info": "INFO"}
LOG_LEVELS |= dict.fromkeys(("verbose", "debug", "trace"), "DEBUG")
BACKENDS = ("DEFAULT", "UCX", "NIXL", "MPI", "MOONCAKE")
IGNORED_FLAGS = {
    "--backend": "there is one backend",
    "--tokenizer": "the model brings its tokenizer",
    "--trust_remote_code": "no code comes with a model",
    "--num_postprocess_workers": "text is made in the serving process",
    "--gpus_per_node": "it computes on the CPU",
    "--kv_cache_free_gpu_memory_fraction": "there is no GPU memory; kv_cache_config.max_tokens bounds the cache",
    "--free_gpu_memory_fraction": "there is no GPU memory; kv_cache_config.max_tokens bounds the cache",
    "--enable_chunked_prefill": "prompts are always computed in pieces of max_num_tokens",
}
IGNORED_KV_KEYS = {
    "free_gpu_memory_fraction": "there is no GPU memory; max_tokens bounds the cache",
    "enable_block_reuse": "a cache is never shared between requests",
    "enable_partial_reuse": "a cache is never shared between requests",
    "tokens_per_block": "a cache is one piece",
    "host_cache_size": "the cache lies in host memory already",
}


@dataclass(frozen=True)
class Options:
    """One instance's settings. `role` is plan.CONTEXT, plan.GENERATION or "" for both. Counts of tokens; 0 stands for the default."""

    model: str
    host: str = "localhost"
    port: int = 8000
    tp: int = 1
    pp: int = 1
    role: str = ""
    log_level: str = "INFO"
    max_batch_size: int = 16
    max_seq_len: int = 0
    max_num_tokens: int = 256
    pool_tokens: int = 0
    buffer_tokens: int = 0
    transfer_timeout_s: float = 60.0
    cluster: Optional[Cluster] = None
    metadata: Optional[Metadata] = None


def parse(argv: Sequence[str]) -> Options:
    """Options from the command line, overridden by its YAML file. Leaves with status 2 for a bad flag; BadInput for a bad file."""
    flags = _parser().parse_args([_underscored(word) for word in argv])
    for name, why in IGNORED_FLAGS.items():
        if getattr(flags, name.lstrip("-")) is not None:
            log.info("%s is ignored: %s", name, why)
    options = Options(
        model=flags.model,
        host=flags.host,
        port=flags.port,
        tp=flags.tp_size,
        pp=flags.pp_size,
        role=_role(flags.server_role),
        log_level=LOG_LEVELS[flags.log_level],
        max_batch_size=flags.max_batch_size,
        max_seq_len=flags.max_seq_len,
        max_num_tokens=flags.max_num_tokens,
        cluster=clusters.parse(None, flags.disagg_cluster_uri),
        metadata=metadata.parse(_map(flags.metadata_server_config_file)) if flags.metadata_server_config_file else None,
    )
    if flags.cp_size > 1:
        raise BadInput(f"--cp_size {flags.cp_size}: the reference engine has no context parallelism, 1 is possible")
    options = _with_file(options, flags.config) if flags.config else options
    if (options.cluster or options.metadata) and not options.role:
        raise BadInput("--server_role: a worker that makes itself known needs CONTEXT or GENERATION")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m disagg_launch.reference", description="Serve a small model on the CPU, one instance.")
    parser.add_argument("model", metavar="MODEL", help="smollm2-135m, glass-en or random:SEED[,heads=8,kv_heads=4,layers=4,...]")
    parser.add_argument("--host", default="localhost", help="address to serve on, also of the KV port (default: localhost)")
    parser.add_argument("--port", type=_port, default=8000)
    for name, letters in (("tensor", "tp"), ("pipeline", "pp"), ("context", "cp")):
        parser.add_argument(f"--{letters}_size", f"--{name}_parallel_size", dest=f"{letters}_size", type=_positive, default=1)
    parser.add_argument("--server_role", default="", help="CONTEXT or GENERATION; both if left out")
    parser.add_argument("--disagg_cluster_uri", default="", help="register there: http://router:port, or etcd://host:port[,etcd://...]")
    parser.add_argument("--metadata_server_config_file", help="register at the metadata server of this YAML file")
    parser.add_argument("--config", "--extra_llm_api_options", dest="config", help="worker YAML; it overrides the flags")
    parser.add_argument("--max_batch_size", type=_positive, default=Options.max_batch_size)
    parser.add_argument("--max_seq_len", type=_positive, default=0, help="default: the model's context")
    parser.add_argument("--max_num_tokens", type=_positive, default=Options.max_num_tokens, help="tokens computed in one iteration")
    parser.add_argument("--max_beam_width", type=int, choices=[1], default=1)
    parser.add_argument("--log_level", type=str.lower, choices=LOG_LEVELS, default="info")
    for name, why in IGNORED_FLAGS.items():
        bare = name in ("--trust_remote_code", "--enable_chunked_prefill")
        help_text = f"ignored: {why}"
        if bare:
            parser.add_argument(name, action="store_true", default=None, help=help_text)
        else:
            parser.add_argument(name, help=help_text)
    return parser


def _underscored(word: str) -> str:
    """A long flag with underscores, as the upstream command spells them; `--server-role` is taken as well."""
    name, equals, value = word.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if word.startswith("--") else word


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} found, 1 or more needed")
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 65536:
        raise argparse.ArgumentTypeError(f"{number} found, 0 to 65535 needed")
    return number


def _role(text: str) -> str:
    roles = {"": "", "context": CONTEXT, "generation": GENERATION}
    if text.lower() not in roles:
        raise BadInput(f"--server_role {text}: CONTEXT or GENERATION is possible")
    return roles[text.lower()]


def _with_file(options: Options, path: str) -> Options:
    complaints: list[str] = []
    changes = _changes(_map(path), options, complaints)
    if complaints:
        raise BadInput("\n".join(f"{path}: {complaint}" for complaint in complaints))
    return replace(options, **changes)


def _map(path: str) -> dict[str, Any]:
    """The map in a YAML file; an empty file is an empty map."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as wrong:
        raise BadInput(f"{path}: {wrong}") from None
    if not isinstance(raw, dict):
        raise BadInput(f"{path}: a map was expected, {type(raw).__name__} found")
    return raw


def _changes(raw: Mapping[str, Any], options: Options, complaints: list[str]) -> dict[str, Any]:
    """What the file changes in the options; complaints are appended."""
    changes: dict[str, Any] = {}
    names = {"max_batch_size": "max_batch_size", "max_seq_len": "max_seq_len", "max_num_tokens": "max_num_tokens"}
    names |= {"tensor_parallel_size": "tp", "pipeline_parallel_size": "pp"}
    for key, value in raw.items():
        if key in names:
            _count(changes, names[key], key, value, complaints)
        elif key == "cache_transceiver_config":
            _transceiver(changes, value, complaints)
        elif key == "disagg_cluster":
            _cluster(changes, value, options.cluster, complaints)
        elif key == "kv_cache_config":
            _kv_cache(changes, value, complaints)
        elif key == "context_parallel_size" and value not in (None, 1):
            complaints.append(f"context_parallel_size {value}: the reference engine has no context parallelism, 1 is possible")
        elif key == "disable_overlap_scheduler":
            if options.role == CONTEXT and value is not True:
                complaints.append(f"disable_overlap_scheduler {value!r}: a context worker needs true")
        else:
            log.info("%s is ignored: the reference engine does not know it", key)
    return changes


def _count(changes: dict[str, Any], field: str, key: str, value: Any, complaints: list[str]) -> None:
    if value is None:
        return
    if type(value) is not int or value < 1:
        complaints.append(f"{key} {value!r}: a positive whole number is needed")
        return
    changes[field] = value


def _cluster(changes: dict[str, Any], raw: Any, flagged: Optional[Cluster], complaints: list[str]) -> None:
    """`disagg_cluster`; the flag's address wins."""
    try:
        changes["cluster"] = clusters.parse(raw, flagged.uri if flagged else "")
    except BadInput as wrong:
        complaints += str(wrong).splitlines()


def _transceiver(changes: dict[str, Any], raw: Optional[Mapping[str, Any]], complaints: list[str]) -> None:
    """`cache_transceiver_config`, strict as upstream: an unknown key is refused."""
    for key, value in _pairs("cache_transceiver_config", raw, complaints):
        if key == "max_tokens_in_buffer":
            _count(changes, "buffer_tokens", f"cache_transceiver_config.{key}", value, complaints)
        elif key in ("kv_transfer_timeout_ms", "kv_transfer_sender_future_timeout_ms"):
            found: dict[str, Any] = {}
            _count(found, "ms", f"cache_transceiver_config.{key}", value, complaints)
            if found and key == "kv_transfer_timeout_ms":
                changes["transfer_timeout_s"] = found["ms"] / 1000
        elif key == "backend":
            if str(value).upper() not in BACKENDS:
                complaints.append(f"cache_transceiver_config.backend {value!r}: one of {', '.join(BACKENDS)} is possible")
            log.info("cache_transceiver_config.backend %s is ignored: the KV cache goes over TCP", value)
        elif key != "transceiver_runtime":
            complaints.append(
                f"cache_transceiver_config.{key}: unknown key; backend, max_tokens_in_buffer, kv_transfer_timeout_ms are possible"
            )


def _kv_cache(changes: dict[str, Any], raw: Optional[Mapping[str, Any]], complaints: list[str]) -> None:
    for key, value in _pairs("kv_cache_config", raw, complaints):
        if key == "max_tokens":
            _count(changes, "pool_tokens", "kv_cache_config.max_tokens", value, complaints)
        elif key == "dtype":
            if value not in (None, "auto", "float32", "fp32"):
                log.info("kv_cache_config.dtype %s is ignored: the cache is float32", value)
        else:
            log.info("kv_cache_config.%s is ignored: %s", key, IGNORED_KV_KEYS.get(key, "the reference engine does not know it"))


def _pairs(name: str, raw: Any, complaints: list[str]) -> list[tuple[str, Any]]:
    if raw is None:
        return []
    if not isinstance(raw, dict):
        complaints.append(f"{name}: a map was expected, {raw!r} found")
        return []
    return list(raw.items())
