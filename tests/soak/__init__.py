"""Long runs of the agent, which tests are too short for: ``python -m soak``."""
