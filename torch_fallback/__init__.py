"""The same capture on transformers models in PyTorch; needs no MLX."""
