"""What training minimises: pure functions of a restored and a clean picture, and their weighted sum."""
