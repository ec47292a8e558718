"""Command entries: python -m jobs.<verb> recipe.yaml key=value ..."""
