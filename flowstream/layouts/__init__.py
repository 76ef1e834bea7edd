"""Layouts generated from the C sources: numpy dtypes and enums, nothing else."""
