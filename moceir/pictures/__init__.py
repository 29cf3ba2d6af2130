"""Picture files as people have them: decoded and encoded with what is in them, and found on and written to disk."""
