"""Headers that make the browser keep the pages from loading or sending anything elsewhere."""

from __future__ import annotations

_CONTENT_SECURITY_POLICY = {
    "default-src": "'self'",
    # Pictures that the page has made itself, and Swagger's icons.
    "img-src": "'self' blob: data:",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}

SECURITY_HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {sources}" for name, sources in _CONTENT_SECURITY_POLICY.items()),
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
