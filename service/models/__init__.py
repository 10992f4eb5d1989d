"""The models of a process: found on disk, loaded and proven, switched without losing a request."""
