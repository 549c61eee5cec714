"""Builds the Content-Security-Policy of a page (W3C Content Security Policy Level 3)."""

import base64
import hashlib
import re


def security_policy(page: str) -> str:
    """Return the policy that permits only the inline style and script of a page, by hash, and requests to its server.

    Args:
        page: The page, with at most one element `style` and one element `script`.
    """
    sources = (
        "default-src 'none'", f"style-src {_hash('style', page)}", f"script-src {_hash('script', page)}",
        "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    )  # fmt: skip
    return "; ".join(sources)


def _hash(element: str, page: str) -> str:
    found = re.search(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
    if found is None:
        return "'none'"
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"
