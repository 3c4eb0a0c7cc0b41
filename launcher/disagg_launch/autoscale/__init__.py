"""Autoscaling beside a deployment: traces of its load, and what a policy would make of them. The policy itself is `runtime.policy`."""
