"""Why a scale loses efficiency."""
