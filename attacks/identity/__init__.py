"""Identity attacks: whose recordings are these? Each file: Config, NEEDS, score(…, config) with .results()."""
