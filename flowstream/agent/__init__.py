"""A run of the agent: its composition, its life, its stages."""
