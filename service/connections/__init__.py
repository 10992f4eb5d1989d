"""Connections: limits of their number, and of the size and speed of their requests and answers."""
