"""A certificate and its key, as an operator makes them."""

from __future__ import annotations

import subprocess
from pathlib import Path


def certificate(folder: Path, name: str = "cert", host: str = "localhost") -> tuple[Path, Path]:
    """NAME.pem and NAME-key.pem in `folder`: self-signed, for `host`, two days long; only the owner can read the key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    what = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={host}"]
    subprocess.run([*what, "-addext", f"subjectAltName=DNS:{host}", "-keyout", key, "-out", cert], check=True, capture_output=True)
    key.chmod(0o600)
    return cert, key
