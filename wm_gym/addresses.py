"""Addresses of servers."""

from __future__ import annotations

from urllib.parse import urlsplit


def is_address(url: str, schemes: tuple[str, ...]) -> bool:
    """Whether a server can have this address: a scheme, a host, a port that is a number.

    Example:
        >>> is_address("http://127.0.0.1:8000", ("http", "https"))
        True
        >>> is_address("http://127.0.0.1:80x", ("http", "https"))
        False
    """
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in schemes and bool(parts.hostname) and parts.port != 0 and " " not in url
        )
    except ValueError:  # a port that is no number, or an unfinished IPv6 address
        return False
