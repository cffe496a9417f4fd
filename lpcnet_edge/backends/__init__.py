"""What runs an engine: one file for each library, and that library is imported nowhere else."""
