"""The service as several processes: HTTP workers, one process of the engine, and their supervisor."""
