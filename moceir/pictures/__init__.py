"""Picture files: finds, reads and writes them, and decodes and encodes them with their metadata."""
