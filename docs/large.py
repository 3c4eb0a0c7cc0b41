"""The deployment of three hundred instances that is rehearsed for the pictures of docs/."""

LARGE = """\
name: large
model: "random:7"
port: {port}
context_servers: {{num_instances: 200}}
generation_servers: {{num_instances: 100, tensor_parallel_size: 2}}
engine: {{name: reference}}
cluster: {{nodes: 50, gpus_per_node: 8, base_port: {base}}}
restart: {{on_failure: restart}}
readiness: {{limit_s: 900}}
"""
