"""NVIDIA GPUs: a small device layer with two bindings, slots in pinned memory, and what runs a stage on them."""
