"""Measure how sparse Mixture-of-Experts language models route."""
