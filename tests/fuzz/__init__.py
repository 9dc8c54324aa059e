"""Broken inputs of every reader, made by Hypothesis: what is not accepted is refused in one sentence."""
