"""The JSON Schema of the topology file, for editors; it says no more than the models do."""

from __future__ import annotations

import json
from typing import Any

from disagg_launch.spec.inherit import SECTIONS
from disagg_launch.spec.load import SPELLINGS
from disagg_launch.spec.model import Topology

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The schema as JSON values."""
    out = Topology.model_json_schema()
    out["title"] = "disagg-launch topology"
    for name in SECTIONS:
        section = out["properties"][name]
        section["anyOf"] = [{"$ref": section.pop("$ref")}, {"type": "null"}]
    for model, other, right in (("DisaggCluster", *SPELLINGS[0][1:]), ("MetadataServer", *SPELLINGS[1][1:])):
        inner = out["$defs"][model]["properties"]
        inner[other] = {**inner[right], "deprecated": True, "description": f"Another spelling of {right}."}
    return {"$schema": DIALECT, **out}


def schema_text() -> str:
    """The schema as it stands in examples/topology.schema.json, ending with a newline."""
    return json.dumps(schema(), indent=2) + "\n"
