"""How many GPUs are worth asking for."""
