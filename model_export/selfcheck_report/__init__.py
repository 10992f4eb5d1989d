"""A self-check as one file to send: the machine, the engine, its times, the service under load, the expectations."""
