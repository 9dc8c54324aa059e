"""What a person sees: tables, plots, the doctor's findings. Reads reports, never models."""
