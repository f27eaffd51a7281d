"""One script per verb; studies are folders of YAML."""
