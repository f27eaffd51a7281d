"""The page on which experts compare synthetic recordings: as a local server, and as one file without any."""
