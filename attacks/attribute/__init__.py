"""Attribute attacks: what embeddings, outputs or a release tell about a person, beyond what is public."""
