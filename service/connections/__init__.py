"""Connections: how many there may be, and how large and how slow what comes and goes on them."""
