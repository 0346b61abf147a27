"""GPT-2: model, loss, data, sharding."""
