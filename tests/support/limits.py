"""Limits of the tests: they end what hangs, and are far from what a slow machine takes."""

HANG_S = 300  # seconds until a test takes a process, a thread or an answer for stuck
