"""What a synthetic cohort is worth: utility, fidelity, intervals, pictures, reports."""
