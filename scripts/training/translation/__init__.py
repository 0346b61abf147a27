"""The translation transformer: model, data, score."""
