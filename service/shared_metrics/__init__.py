"""Counters and histograms of all processes of a service, in shared memory."""
