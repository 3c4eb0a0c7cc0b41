"""A certificate and its private key in PEM files, as the front door shows them and lint tries them beforehand."""

from __future__ import annotations

import ssl
from typing import NoReturn


class WrongPair(Exception):
    """The two files cannot be used; `option` is the name of the one to look at."""

    def __init__(self, option: str, text: str) -> None:
        super().__init__(text)
        self.option = option


def load(context: ssl.SSLContext, cert: str, key: str) -> None:
    """Have the context show the certificate in `cert`. WrongPair, or OSError where a file cannot be read; half of a pair may stay then."""
    try:
        context.load_cert_chain(cert, key, _no_password)
    except ssl.SSLError as wrong:
        why = (wrong.reason or str(wrong)).lower().replace("_", " ")
        text = f"found no certificate with its key in {cert} and {key} ({why}); in the first it has to come before those that signed it"
        raise WrongPair("tls_cert_file", text) from None


def _no_password() -> NoReturn:
    raise WrongPair("tls_key_file", "found an encrypted key; needed: one without a passphrase, which only its owner can read")
