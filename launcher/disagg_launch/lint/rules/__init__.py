"""The rules, one module per subject; `disagg_launch.lint.RULES` is all of them in order of number."""
