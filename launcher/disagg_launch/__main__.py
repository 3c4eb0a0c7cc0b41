"""`python -m disagg_launch`, for places where no script directory is on PATH."""

from disagg_launch.cli import main

main()
