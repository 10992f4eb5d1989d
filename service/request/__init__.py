"""Dependencies of every HTTP surface: the runtime, the model, the time limit, the bounded body, the disconnect."""
