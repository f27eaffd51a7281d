"""One codec per file; each exposes `Config`, `Codec` (encode, decode) and `grammar`."""
