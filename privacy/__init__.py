"""Person-level privacy: plans, per-person gradients, noise, accounting, the ledger, and protections beside them."""
