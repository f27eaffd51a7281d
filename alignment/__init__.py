"""Experts judge synthetic recordings, and the generator learns from it (DPO, PPO; TRL only here)."""
